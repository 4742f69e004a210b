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


"""What the release before wrote: its flat options, archives, runs and command lines.

``tests/data/release_before`` was made by it: its four guidance files, and a run of four steps by the command line in
``arguments.txt`` with the Stable Diffusion of ``small_diffusion`` in ``sd``; ``picture.npy`` is its archive rendered, and
``losses.json`` what it went on with when the same command asked for eight steps.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import run_example
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from refusals import NO_VALUE, check_refusal, refusal
from small_diffusion import build_folder
from small_model import CONF, NO_PICTURES, WEAK_LOSSES

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.launch.configuration import load_config, prepare_config
from nemo_dreamfusion.launch.nemo2_config import translate_arguments
from nemo_dreamfusion.launch.override_errors import override_error
from nemo_dreamfusion.launch.run_folder import check_same_object
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.guidance.old_options import (
    GROUPS,
    GUIDANCES,
    MOVED,
    OF_ONE_SCORE,
    new_name,
    translate_old_arguments,
    translate_old_guidance,
)
from nemo_dreamfusion.parts.build import build

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / 'tests' / 'data' / 'release_before'
CHOICES = sorted(path.stem for path in (BEFORE / 'guidance').glob('*.yaml'))
OF_SOURCE = {  # options of the weights, which have stayed where they were
    *('_target_', 'source', 'revision', 'variant', 'local_files_only', 'checkpoint', 'tokenizer', 'context_length'),
    *('unnormalised_kv', 'text_heads', 'plan_dir', 'engine'),
}
CHANGED = {  # every other option, with another value than the files have, as on a command line
    **{'guidance_scale': '50.0', 'guidance_rescale': '0.5', 'perp_neg': 'threestudio', 'weighting': 'residual'},
    **{'min_step_ratio': '0.1', 'max_step_ratio': '[0.2,0.9,0.5,0.8]', 'grad_clip': '0.5', 'debias': 'some/bert'},
    **{'latent_map': 'normal_opacity', 'view_blend_deg': '[10.0,20.0]', 'overhead_elevation_deg': '[30.0,40.0]'},
    **{'precision': 'bf16', 'attention': 'math', 'vae_slicing': 'true', 'checkpoint_vae': 'true', 'compile': 'true'},
    **{
        'sample_posterior': 'null',  # is true in some of the files and false in another
        'channels_last': 'false',
        'cuda_graphs': 'false',
    },
    **{'ism_interval': '60', 'ism_inversion_step': '100', 'vsd_rank': '2', 'vsd_learning_rate': '0.001'},
    **{'score': 'csd', 'time_sampling': 'sqrt'},
}
OLD_CAMERAS = ('model.data.train.elevation_range_deg=[0.0,30.0]', 'model.data.train.overhead_probability=0.05')
NEW = {  # what the release before did not have
    'parts': ('lora', 'embeddings', 'unet', 'without'),
    'latents': ('image_size', 'cache'),
    'prompts': ('cache',),
    'networks': ('vae_attention', 'fp8'),
}


def old_node(choice: str) -> dict:
    """``model.guidance`` of the release before, as a run's ``config.yaml`` had it."""
    node = yaml.safe_load((BEFORE / 'guidance' / f'{choice}.yaml').read_text(encoding='utf-8'))
    node |= {'guidance_scale': 2.0} if choice == 'pocket' else {}  # it was 7.5, and no option's name or meaning
    return node | {key: value for key, value in {'compile': False, 'precision': 32}.items() if '$' in str(node[key])}


@cache
def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose('dreamfusion', overrides=list(overrides)), resolve=True)


def new_node(choice: str, *arguments: str) -> dict:
    """What the command line makes of old arguments."""
    translated = translate_old_arguments([f'model/guidance={choice}', *arguments])
    node = translate_old_guidance(composed(*translated)['model']['guidance'])
    if choice != 'sd_nemo':  # the one that had a tokenizer
        node.pop('parts', None)
    return {key: without_new(key, value) for key, value in node.items()}


def without_new(group: str, options: object) -> object:
    """A group without the options that the release before did not have."""
    if group not in NEW:
        return options
    return {key: value for key, value in options.items() if key not in NEW[group]}


def test_every_old_option_has_a_place():
    options = set().union(*(old_node(choice) for choice in CHOICES)) - OF_SOURCE
    assert options == set(CHANGED) == {*MOVED, *OF_ONE_SCORE, *GROUPS}


@pytest.mark.parametrize('choice', CHOICES)
def test_an_old_node_is_the_new_one(choice):
    assert translate_old_guidance(old_node(choice)) == new_node(choice)


@pytest.mark.parametrize('option', CHANGED)
@pytest.mark.parametrize('choice', CHOICES)
def test_an_old_option_means_the_same_in_a_file_and_on_the_command_line(choice, option):
    if option not in old_node(choice):
        pytest.skip('was no option of this guidance')
    value = yaml.safe_load(CHANGED[option])
    assert value != old_node(choice)[option]
    changed = translate_old_guidance(old_node(choice) | {option: value})
    assert changed == new_node(choice, f'model.guidance.{option}={CHANGED[option]}')
    has_effect = option not in OF_ONE_SCORE  # of a score that is not chosen
    assert (changed != new_node(choice)) == has_effect


@pytest.mark.parametrize('prefix', ['', '+', '++'])
@pytest.mark.parametrize(('score', 'option'), [(score, option) for option, (score, _) in OF_ONE_SCORE.items()])
def test_options_of_a_score_reach_it(score, option, prefix):
    value = CHANGED[option]
    new = new_node('pocket', f'{prefix}model.guidance.{option}={value}', f'model.guidance.score={score}')
    assert new['score'][OF_ONE_SCORE[option][1]] == yaml.safe_load(value)
    assert new == translate_old_guidance(old_node('pocket') | {'score': score, option: yaml.safe_load(value)})
    assert build('model.guidance', new, Guidance).score.weighting == 'sds'


@pytest.mark.parametrize('sampling', ['uniform', 'sqrt', 'dreamtime'])
@pytest.mark.parametrize('score', ['sds', 'csd', 'ism', 'vsd'])
def test_a_run_of_the_release_before_is_the_same_object(tmp_path, score, sampling):
    arguments = [f'model.guidance.score={score}', f'model.guidance.time_sampling={sampling}']
    now = composed(*translate_old_arguments(arguments))
    before = {**now, 'model': {**now['model'], 'guidance': old_node('pocket') | {'score': score}}}
    before['model']['guidance']['time_sampling'] = sampling
    check_same_object(tmp_path, before, now)
    before['model']['guidance']['guidance_scale'] = 9.0
    with refusal('model.guidance.mixing.guidance_scale', 9.0, 'exp_manager.exp_dir'):
        check_same_object(tmp_path, before, now)


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        ('~model.guidance.compile', '~model.guidance.networks.compile'),
        ('++model.guidance.perp_neg=null', '++model.guidance.mixing.perp_neg=null'),
        ('model.guidance.guidance_scale=5,7.5', 'model.guidance.mixing.guidance_scale=5,7.5'),
        ('model.guidance.score=sds,csd', 'model/guidance/score=sds,csd'),
        ("+model.guidance.score='ism'", "model/guidance/score='ism'"),
        ('model.guidance.score={_target_: a.B}', 'model.guidance.score={_target_: a.B}'),
        ('model.guidance.score.weighting=uniform', 'model.guidance.score.weighting=uniform'),
        ('model.guidance.source=a/b', 'model.guidance.source=a/b'),
        ('model.prompt=model.guidance.score=csd', 'model.prompt=model.guidance.score=csd'),
        ('--config-name=mine', '--config-name=mine'),
    ],
)
def test_arguments(argument, expected):
    assert translate_old_arguments([argument]) == translate_arguments([argument])[0] == [expected]


def test_settings_of_nemo_2_reach_their_new_places():
    arguments = ['model.guidance_scale=30', 'model.guidance.t_range=[0.1,0.5]', 'model.guidance.precision=16']
    node = composed(*translate_arguments(arguments)[0])['model']['guidance']
    assert (node['mixing']['guidance_scale'], node['networks']['precision']) == (30, 16)
    assert (node['timesteps']['min_step_ratio'], node['timesteps']['max_step_ratio']) == (0.1, 0.5)


def test_a_users_own_file_may_mix_old_and_new():
    node = new_node('pocket') | {'guidance_scale': 20.0, 'score': 'ism', 'ism_interval': 60}
    new = translate_old_guidance(node)
    assert new['mixing'] == {**new_node('pocket')['mixing'], 'guidance_scale': 20.0}
    assert new['score'] == {
        '_target_': new_node('pocket', 'model.guidance.score=ism')['score']['_target_'],
        'interval': 60,
    }
    with refusal('model.guidance.score', 'sdss', 'sds'):
        translate_old_guidance(node | {'score': 'sdss'})


def test_old_options_in_a_users_own_file_reach_the_application():
    cfg = load_config(overrides=['model.guidance.score=ism'])
    with open_dict(cfg):
        cfg.model.guidance.update(guidance_scale=20.0, ism_interval=60, compile='${model.compile}')
    guidance = prepare_config(cfg).model.guidance
    assert (guidance.mixing.guidance_scale, guidance.score.interval, guidance.networks.compile) == (20.0, 60, False)
    assert 'guidance_scale' not in guidance and cfg.model.guidance.guidance_scale == 20.0  # the caller's is as it was


def test_an_old_name_that_hydra_does_not_know_is_answered_with_the_new_one():
    """As where the command line is not translated: beside ``--config-path``."""
    with initialize_config_dir(str(CONF), version_base=None), pytest.raises(HydraException) as caught:
        compose('dreamfusion', overrides=['model.guidance.guidance_scale=3'])
    said = override_error(caught.value)
    check_refusal(said, 'model.guidance.guidance_scale', NO_VALUE, 'model.guidance.mixing.guidance_scale')


@pytest.mark.parametrize('node', [{'_target_': 'my.Guidance', 'precision': 16}, {'_target_': 'my.Guidance'}, {}])
def test_a_guidance_of_another_package_keeps_its_options(node):
    assert translate_old_guidance(node) == node


@pytest.mark.parametrize(('short', 'expected'), [(None, 'mine'), ('other', 'other')])
def test_a_short_name_overrides_parts_unless_it_is_null(short, expected):
    node = {'_target_': f'{GUIDANCES[0]}HuggingFaceGuidance', 'lora': short, 'parts': {'lora': 'mine'}}
    assert translate_old_guidance(node)['parts'] == {'lora': expected}


@pytest.mark.parametrize('option', [*MOVED, *OF_ONE_SCORE])
def test_the_new_name_of_an_old_option_exists(option):
    score = OF_ONE_SCORE.get(option, ('sds',))[0]
    node = composed(f'model/guidance/score={score}')['model']['guidance']
    group, name = new_name(option).removeprefix('model.guidance.').split('.')
    assert name in node[group]


def test_an_old_archive_gives_the_same_picture():
    model = DreamFusion.restore_from(str(BEFORE / 'run' / 'DreamFusion.nemo'), map_location='cpu')
    one = torch.ones(2)
    cameras = cameras_from_orbit(torch.tensor([0.0, 120.0]), one * 15, one * 3.2, one * 36, 12, 12)
    expected = torch.from_numpy(np.load(BEFORE / 'picture.npy'))
    torch.testing.assert_close(model.render_cameras(cameras).image, expected, rtol=0, atol=1e-5)
    assert (model.guidance.score.rank, model.guidance.score.weighting) == (2, 'uniform')
    assert (model.guidance.mixing.guidance_scale, model.guidance.timesteps.max_step_ratio[3]) == (5, 0.8)


@pytest.mark.slow
def test_an_old_run_is_resumed_by_the_same_command(tmp_path, monkeypatch):
    """With what variational score distillation had learnt; the losses are those of the release before."""
    pytest.importorskip('peft')
    build_folder(tmp_path / 'sd')
    folder = Path(shutil.copytree(BEFORE / 'run', tmp_path / 'runs' / 'a-red-cube-930bfeb8'))
    arguments = (BEFORE / 'arguments.txt').read_text(encoding='utf-8').splitlines()
    command = [
        *arguments,
        *('model/views=nemo', *OLD_CAMERAS),  # the defaults of then, and those of the next line
        *WEAK_LOSSES,
        'model/optim=adam',
        *('trainer.max_steps=8', *NO_PICTURES),
    ]
    monkeypatch.chdir(tmp_path)
    assert run_example('dreamfusion.py', *command) == 0
    expected = json.loads((BEFORE / 'losses.json').read_text(encoding='utf-8'))['losses_of_steps_5_to_8']
    assert losses(folder) == pytest.approx(expected, rel=1e-3)


def losses(folder: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [scalar.value for scalar in events.Scalars('loss')]
