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

"""The configuration of NeMo v2.2.1, with each choice of each group: every key is honoured, or explained in one warning."""

from pathlib import Path

import pytest
import yaml
from commands import run_example
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from nemo_2_2_1 import GROUPS, configuration
from omegaconf import OmegaConf
from refusals import refusal

from nemo_dreamfusion.launch.nemo2_config import (
    CONVERTED,
    EXPLAINED,
    RENAMED,
    is_nemo_2,
    literal,
    reason,
    translate,
    translate_arguments,
    warning,
)
from nemo_dreamfusion.models.optimizers import check_optim
from nemo_dreamfusion.parts.build import build, flatten

ROOT = Path(__file__).parents[2]
CONF = ROOT / 'nemo_dreamfusion' / 'conf'
CHOICES = [(group, name) for group, names in GROUPS.items() for name in names]


def settings(**choices):
    return dict(flatten(configuration(**choices)))


def ours(overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose('dreamfusion', overrides=overrides)


@pytest.mark.parametrize(('group', 'name'), CHOICES, ids=[f'{g}-{n}' for g, n in CHOICES])
def test_every_key_is_honoured_or_explained(group, name):
    given = settings(**{group: name})
    overrides, left_out = translate(given)
    missing = f'model.{group}._target_' in given and not (CONF / 'model' / group / f'{name}.yaml').exists()
    if missing:  # a choice that is not here is refused by its name, never replaced by another
        with pytest.raises(ConfigCompositionException, match=f'{group}/{name}'):
            ours(overrides)
        return
    result = dict(flatten(OmegaConf.to_container(ours(overrides), resolve=True)))
    for key, value in given.items():
        if key in left_out:
            assert key in warning(left_out)
        elif key in RENAMED:
            assert result[RENAMED[key]] == value, key
        elif key in CONVERTED:
            assert all(result[k] == v for k, v in CONVERTED[key](value).items())
        elif not key.endswith('_target_'):
            assert result[key] == value, key


def test_the_numbers_mean_the_same():
    config = ours(translate(settings())[0])
    assert config.model.data.train.elevation_range_deg == [-15, 45]  # 45 to 105 degrees from the upper pole
    assert config.model.resolution == config.model.latent_resolution == 64
    timesteps = config.model.guidance.timesteps
    assert (timesteps.min_step_ratio, timesteps.max_step_ratio) == (0.02, 0.98)
    assert config.model.guidance.mixing.guidance_scale == 100
    assert config.model.encoding_lr_ratio == 1.0  # one learning rate for everything, as there
    assert config.model.optim.name == 'adan' and config.model.data.test.views == 100
    assert config.model.seed == 2023


@pytest.mark.parametrize('nerf', ['torchngp'])
@pytest.mark.parametrize('background', ['static', 'random', 'torchngp'])
def test_what_comes_out_can_be_built(nerf, background):
    from nemo_dreamfusion.modules.backgrounds.base import Background
    from nemo_dreamfusion.modules.losses.base import Losses
    from nemo_dreamfusion.modules.nerf.base import RadianceField
    from nemo_dreamfusion.modules.renderers.base import Renderer

    config = ours(translate(settings(nerf=nerf, background=background))[0])
    plain = OmegaConf.to_container(config.model, resolve=True)
    kinds = {'nerf': RadianceField, 'background': Background, 'renderer': Renderer, 'loss': Losses}
    for group, kind in kinds.items():
        assert isinstance(build(f'model.{group}', plain[group], kind), kind)
    assert instantiate(config.model.data).test_cameras.views == 100
    check_optim(plain['optim'])


def test_the_warning_has_a_line_for_each_reason():
    left_out = translate(settings())[1]
    first, *rows = warning(left_out).splitlines()
    assert first.endswith(':') and len(rows) == len(set(left_out.values())) < len(left_out)
    for key, why in left_out.items():
        (row,) = [row for row in rows if row.startswith(f'  {why}: ')]
        assert key in row.partition(f'{why}: ')[2].split(', ')


def test_a_run_shorter_than_nemos_interval_of_validation_validates_at_its_end():
    for steps, interval in ((50, 50), (100, 100), (1000, 100)):
        overrides, _ = translate({**settings(), 'trainer.max_steps': steps})
        assert ours(overrides).trainer.val_check_interval == interval


def test_an_unknown_class_and_an_unknown_key_are_refused():
    other = 'nemo.collections.multimodal.modules.nerf.Other'
    with refusal('model.nerf._target_', other, 'nemo_dreamfusion/conf/model'):
        translate({'model.nerf._target_': other})
    overrides, _ = translate({**settings(), 'model.nerf.bownd': 2})
    with pytest.raises(ConfigCompositionException, match='bownd'):
        ours(overrides)


def test_command_lines():
    arguments, left_out = translate_arguments(
        [
            *('model.guidance_scale=50', 'model.prompt=a duck', '--config-name', 'dreamfusion', 'model/nerf=tcnn'),
            *('model.data.train_dataset.theta_range=[60,90]', 'model.export_video=True', '+trainer.precision=16'),
            *('model.background.background=[0,0,1]', 'seed=7'),
        ]
    )
    assert arguments == [
        *(
            'model.guidance.mixing.guidance_scale=50',
            'model.prompt=a duck',
            '--config-name',
            'dreamfusion',
            'model/nerf=tcnn',
        ),
        *('model.data.train.elevation_range_deg=[0,30]', '+trainer.precision=16'),
        *('model.background.color=[0,0,1]', 'model.seed=7'),
    ]
    assert list(left_out) == ['model.export_video']


@pytest.mark.parametrize(
    ('key', 'value', 'way_out'),
    [
        ('model.guidance.t_range', '[0.02', 'bracket'),
        ('model.guidance.t_range', '0.5', '[first, last]'),
        ('model.guidance.t_range', '[0.5]', '[first, last]'),
        ('model.guidance.t_range', '[0.9, 0.1]', 'first <= last'),
        ('model.data.train_dataset.theta_range', '5', 'at most 180'),
        ('model.data.train_dataset.theta_range', "['a', 'b']", 'at most 180'),
        ('model.data.train_dataset.theta_range', '[0.1,0.5],[1,2]', 'bracket'),
    ],
)
def test_values_of_another_form_are_refused_by_the_name_that_was_given(key, value, way_out):
    with refusal(key, value, way_out):
        translate_arguments([f'{key}={value}'])


ANY = settings_of_hypothesis(max_examples=120, deadline=None, derandomize=True, database=None)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex('[a-z_]{1,5}', fullmatch=True), inner),
    max_leaves=5,
)
KEYS = st.sampled_from([*RENAMED, *CONVERTED, *EXPLAINED, *settings(), 'model.nerf._target_', 'model.what'])


@ANY
@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_any_settings_are_translated_or_refused_in_one_sentence(given_settings):
    try:
        overrides, left_out = translate(given_settings)
    except ValueError as error:
        assert '\n' not in str(error)
        return
    assert all('=' in override for override in overrides) and all(left_out.values())
    OverridesParser.create().parse_overrides(overrides)  # whatever the values: in Hydra's grammar


@ANY
@given(st.lists(st.builds('{}{}={}'.format, st.sampled_from(['', '+', '++']), KEYS, st.text(max_size=8)), max_size=4))
def test_any_command_line_is_translated_or_refused_in_one_sentence(arguments):
    try:
        translated, left_out = translate_arguments(arguments)
    except ValueError as error:
        assert str(error) and '\n' not in str(error)
        return
    assert all('=' in argument for argument in translated) and all(left_out.values())


@ANY
@given(PLAIN)
def test_a_value_survives_hydras_grammar(value):
    (override,) = OverridesParser.create().parse_overrides([f'key={literal(value)}'])
    assert override.value() == value or repr(override.value()) == repr(value)  # nan


@pytest.mark.parametrize('config', [{}, {'model': None}, {'model': 3}, {'model': {'_target_': None}}])
def test_what_is_no_configuration_of_nemos(config):
    assert not is_nemo_2(config)


def test_the_page_has_a_row_for_every_key():
    page = (ROOT / 'docs' / 'migrating.md').read_text(encoding='utf-8')
    keys = {key for group, name in CHOICES for key in settings(**{group: name}) if not key.startswith('benchmark_')}
    assert len(keys) > 120
    missing = []
    for key in keys:
        last = key if key.count('.') < 2 else key.split('.', 2)[2]
        if f'`{key}`' not in page and f'`{last}`' not in page:
            missing.append(key)
    assert not missing
    for key in keys:
        if (why := reason(key)) and 'jitter' not in key:
            assert why in page, key


@pytest.mark.slow
@pytest.mark.filterwarnings('error:(?s).*working directory')  # Hydra's, of which users need to know nothing
def test_the_command_takes_nemos_own_yaml(tmp_path, capfd):
    """The last thing that NeMo's configuration needs is its Stable Diffusion: the command gets as far as that."""
    whole = configuration()
    whole['trainer'].update(accelerator='cpu', precision=32, max_steps=1)
    whole['model']['guidance'] = {**whole['model']['guidance'], 'model_key': str(tmp_path / 'none'), 'precision': 32}
    whole['exp_manager']['exp_dir'] = str(tmp_path / 'runs')
    assert is_nemo_2(whole)
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(whole))
    command = [f'--config-path={tmp_path}', '--config-name=config', 'model.prompt=a duck']
    assert run_example('dreamfusion.py', *command) == 2
    said = capfd.readouterr()
    assert (said.out + said.err).count('Keys of NeMo 2 that are left out') == 1
    assert said.err.splitlines()[-1].startswith('error: ')
    assert 'model.guidance.source' in said.err and 'Traceback' not in said.err
