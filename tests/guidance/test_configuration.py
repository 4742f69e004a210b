# Copyright (c) 2026, the nemo_dreamfusion authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""The configuration of the guidances: what the YAML files offer is what the constructors take."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal
from small_model import CONF

from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.parts.build import ALLOWED_PREFIXES, build, target_class
from nemo_dreamfusion.parts.checks import hints_of

GROUP = CONF / 'model' / 'guidance'
GIVEN = {'checkpoint': 'sd.nemo', 'plan_dir': 'plan'}  # where a choice leaves it open


def choices(folder) -> list[str]:
    return sorted(path.stem for path in folder.glob('*.yaml'))


@cache
def node_of(*overrides: str) -> dict:
    """The node ``model.guidance``, as a run has it."""
    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose('dreamfusion', overrides=list(overrides)).model.guidance, resolve=True)


def options_of(node: dict, kind: type) -> set[str]:
    """What a node may hold: the fields of a dataclass, or the arguments of the class that it names."""
    if '_target_' in node:
        return {'_target_', *inspect.signature(target_class('model.guidance', node, kind)).parameters}
    return {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize('choice', choices(GROUP))
def test_keys_are_the_arguments(choice):
    node = node_of(f'model/guidance={choice}')
    assert set(node) == options_of(node, Guidance)
    hints = hints_of(target_class('model.guidance', node, Guidance))
    groups = {name: value for name, value in node.items() if isinstance(value, dict)}
    own = set() if choice == 'sd_trt' else {'parts'}
    assert set(groups) == own | {'score', 'timesteps', 'mixing', 'prompts', 'latents', 'networks'}
    for name, value in groups.items():
        (kind,) = (k for k in hints[name].__args__ if k is not type(None))
        assert set(value) == options_of(value, kind), name


@pytest.mark.parametrize('choice', choices(GROUP))
def test_constructors_are_small(choice):
    kind = target_class('model.guidance', node_of(f'model/guidance={choice}'), Guidance)
    assert len(inspect.signature(kind).parameters) <= 12


@pytest.mark.parametrize('path', sorted(GROUP.glob('*/*.yaml')), ids=lambda path: f'{path.parent.name}-{path.stem}')
def test_files_of_a_choice_are_short(path):
    if path.parent.name != 'shared':
        assert len(path.read_text(encoding='utf-8').splitlines()) < 12


@pytest.mark.parametrize('guidance', choices(GROUP))
@pytest.mark.parametrize('score', choices(GROUP / 'score'))
@pytest.mark.parametrize('timesteps', choices(GROUP / 'timesteps'))
def test_every_combination_is_built(guidance, score, timesteps):
    node = dict(node_of(f'model/guidance={guidance}'))
    node |= {key: value for key, value in GIVEN.items() if key in node}
    node['score'] = node_of(f'model/guidance/score={score}')['score']
    node['timesteps'] = node_of(f'model/guidance/timesteps={timesteps}')['timesteps']
    if guidance == 'sd_trt' and score == 'vsd':
        with refusal('model.guidance.score', NO_VALUE, 'model/guidance/score=sds'):
            build('model.guidance', node, Guidance)
        return
    built = build('model.guidance', node, Guidance)
    assert type(built.score).__module__.endswith(f'distillation.{score}')
    assert type(built.timesteps).__name__.lower() == f'{timesteps}timesteps'


@pytest.mark.parametrize(
    ('overrides', 'key', 'value', 'way_out'),
    [
        (['++model.guidance.score=csd'], 'score', 'csd', 'model/guidance/score=csd'),
        (['++model.guidance.timesteps=sqrt'], 'timesteps', 'sqrt', 'model/guidance/timesteps=sqrt'),
        (['model.guidance.score._target_=os.system'], 'score._target_', 'os.system', 'nemo_dreamfusion.*'),
        (['+model.guidance.score.rank=3'], 'score.rank', NO_VALUE, 'weighting'),
        (['+model.guidance.mixing.scale=3'], 'mixing.scale', NO_VALUE, 'guidance_scale'),
        (['model.guidance.networks.channels_last=3'], 'networks.channels_last', 3, 'true or false'),
        (['model.guidance.mixing=3'], 'mixing', 3, 'GuidanceMixing'),
        (['+model.guidance.guidance_scale=3'], 'guidance_scale', NO_VALUE, 'mixing'),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_whole_key(overrides, key, value, way_out):
    node = node_of(*overrides)
    with refusal(f'model.guidance.{key}', value, way_out):
        build('model.guidance', node, Guidance)


def test_a_target_of_another_kind_is_refused():
    target = 'nemo_dreamfusion.modules.guidance.timesteps.UniformTimesteps'
    with refusal('model.guidance.score._target_', target, 'Score'):
        build('model.guidance', node_of(f'model.guidance.score={{_target_: {target}}}'), Guidance)


class OwnScore(Score):
    """What a user writes."""

    def gradient(self, x0, t, conditioning, *, model, mixing, generator):
        return x0


def test_a_score_of_a_users_own_package_is_built_once_its_package_is_allowed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'my_scores', sys.modules[__name__])
    node = node_of('model.guidance.score={_target_: my_scores.OwnScore, weighting: uniform}')
    with refusal('model.guidance.score._target_', 'my_scores.OwnScore', 'nemo_dreamfusion.*'):
        build('model.guidance', node, Guidance)
    monkeypatch.setattr('nemo_dreamfusion.parts.build.ALLOWED_PREFIXES', [*ALLOWED_PREFIXES, 'my_scores.'])
    built = build('model.guidance', node, Guidance)
    assert isinstance(built.score, OwnScore) and built.score.weighting == 'uniform'
