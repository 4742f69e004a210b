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

"""Every field of Lightning's trainer and NeMo's exp_manager can be set by its name; a hint leads to what exists."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.launch.configuration import load_config, prepare_config
from nemo_dreamfusion.launch.known_fields import (
    _fields,
    exp_manager_schema,
    imported_fields,
    is_known_field,
    known_fields,
)
from nemo_dreamfusion.launch.override_errors import override_error
from nemo_dreamfusion.launch.overrides import prepare_overrides
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.build import flatten

EXP_MANAGER = [
    f'exp_manager.{key}' for key, _ in flatten(OmegaConf.to_container(exp_manager_schema(), enum_to_str=True))
]
TRAINER = [f'trainer.{key}' for key in known_fields('trainer')]


def test_every_field_can_be_set_without_a_plus():
    assert len(EXP_MANAGER) > 80 and len(TRAINER) > 30
    assert {'exp_manager.explicit_log_dir', 'exp_manager.max_time_per_run', 'trainer.max_epochs'} <= {
        *EXP_MANAGER,
        *TRAINER,
    }
    config = load_config(overrides=[f'{key}=7' for key in (*EXP_MANAGER, *TRAINER)])
    assert {str(OmegaConf.select(config, key)) for key in (*EXP_MANAGER, *TRAINER)} == {'7'}
    assert load_config(overrides=['+trainer.max_steps=8', '++trainer.max_epochs=2']).trainer.max_steps == 8


def test_what_the_source_says_is_what_the_classes_say():
    read, imported = _fields(), imported_fields()
    assert [key for key, _ in flatten(read)] == [key for key, _ in flatten(imported)]
    assert read['trainer'] == imported['trainer']
    free = {key for key, value in flatten(read) if value is None}
    assert 'exp_manager.wandb_logger_kwargs' in free
    assert free <= {key for key, value in flatten(imported) if value is None}


def test_what_goes_to_a_logger_is_free_and_nothing_else():
    assert is_known_field('exp_manager.neptune_logger_kwargs.project')
    config = load_config(overrides=['exp_manager.wandb_logger_kwargs.tags=[a,b]'])
    assert config.exp_manager.wandb_logger_kwargs.tags == ['a', 'b']
    for key in ('exp_manager.max_time', 'trainer.max_step', 'exp_manager.ema.x', 'model.prompt', 'exp_manager.name.x'):
        assert not is_known_field(key)


@pytest.mark.parametrize('key', [*EXP_MANAGER, *TRAINER])
def test_a_misspelt_field_leads_to_one_that_exists(key):
    node, _, name = key.rpartition('.')
    with pytest.raises(ValueError) as caught:
        prepare_overrides([f'{node}.{name}qx=1'])
    assert f'there is no key {node}.{name}qx.' in str(caught.value)
    (meant,) = re.findall(r'Did you mean ([\w.]+)\?', str(caught.value))
    assert meant == key or is_known_field(meant)


@pytest.mark.parametrize('option', ['samples_per_chunk', 'transmittance_thresh'])
def test_an_option_of_a_class_is_never_sent_elsewhere(option):
    config = load_config()
    if option in config.model.renderer:
        assert load_config(overrides=[f'model.renderer.{option}=1']).model.renderer[option] == 1
        return
    with refusal(f'model.renderer.{option}', NO_VALUE, f'+model.renderer.{option}'):
        load_config(overrides=[f'model.renderer.{option}=1'])


@pytest.mark.parametrize(
    ('overrides', 'key', 'value', 'way_out'),
    [
        (['trainer.val_check_interval=100', 'trainer.max_steps=50'], 'val_check_interval', 100, 50),
        (['trainer.val_check_interval=40', 'model.data.steps_per_epoch=30'], 'val_check_interval', 40, 30),
        (['trainer.val_check_interval=9', 'trainer.limit_train_batches=8'], 'val_check_interval', 9, 8),
        (['trainer.val_check_interval=9', 'trainer.overfit_batches=8'], 'val_check_interval', 9, 8),
        (['trainer.limit_val_batches=0.01'], 'limit_val_batches', 0.01, 'whole number'),
        (['trainer.limit_train_batches=0.001'], 'limit_train_batches', 0.001, 'trainer.max_steps'),
    ],
)
def test_what_lightning_compares_with_the_data_is_refused_beforehand(overrides, key, value, way_out):
    overrides = [('+' * override.startswith('model.')) + override for override in overrides]
    with refusal(f'trainer.{key}', value, way_out):
        prepare_config(load_config(overrides=overrides), 'fit')


@pytest.mark.parametrize(
    'overrides',
    [
        ['trainer.val_check_interval=50', 'trainer.max_steps=50'],
        ['trainer.val_check_interval=100', 'trainer.max_steps=50', 'trainer.check_val_every_n_epoch=null'],
        ['trainer.val_check_interval=0.5', 'trainer.limit_val_batches=0', 'trainer.limit_test_batches=0.5'],
    ],
)
def test_what_lightning_takes_is_taken(overrides):
    prepare_config(load_config(overrides=overrides), 'fit')


@pytest.mark.parametrize(
    ('override', 'way_out'),
    [
        ('model.guidance.parts.embeddings=a.safetensors', 'a list'),
        ('+model.guidance.lora_scale=0.5', 'model.guidance.lora'),
        ('model/guidance/lora=mine', 'model.guidance.lora'),
        ('mesh_texture=true', 'texture_size'),
        ('+texture_resolution=1024', 'texture_size'),
        ('+exp_manager.uv_unwrap=true', 'texture_size'),
        ('model.textureless_ration=0.5', 'model.textureless_ratio'),
    ],
)
def test_what_is_not_in_this_release_is_said_to_be_elsewhere(override, way_out):
    key = override.lstrip('+').partition('=')[0]
    with refusal(key, NO_VALUE, way_out):
        DreamFusion(prepare_config(load_config(overrides=[override]), 'fit').model)


@pytest.mark.parametrize(
    'given',
    [
        'exp_manager.explicit_log_dir=/some/where',
        'exp_manager.max_time_per_run=00:01:00:00',
        'exp_manager.checkpoint_callback_params.always_save_nemo=true',
        'exp_manager.early_stopping_callback_params.patience=3',
        'exp_manager.wandb_logger_kwargs.entity=me',
        'trainer.max_epochs=3',
        'trainer.accumulate_grad_batches=2',
        '+trainer.max_steps=7',
    ],
)
def test_a_field_is_set_without_a_plus(given):
    key, _, value = given.lstrip('+').partition('=')
    node = load_config(overrides=[given])
    for name in key.split('.'):
        node = node[name]
    assert str(node).lower() == value


@pytest.mark.parametrize(
    ('given', 'meant'),
    [
        ('trainer.max_epoch=3', 'trainer.max_epochs'),
        ('exp_manager.max_time_per_runs=1', 'exp_manager.max_time_per_run'),
        (
            'exp_manager.checkpoint_callback_params.always_save_nem=1',
            'exp_manager.checkpoint_callback_params.always_save_nemo',
        ),
    ],
)
def test_a_misspelt_field_is_refused_with_the_one_that_is_meant(given, meant):
    with refusal(given.partition('=')[0], NO_VALUE, meant):
        load_config(overrides=[given])


def test_other_arguments_stay_as_they_are():
    others = ['dreamfusion', 'model.seed=2', '+model.x=1', '~trainer.logger', 'trainer', 'model/nerf=tcnn']
    assert prepare_overrides(others) == others
    assert not is_known_field('exp_manager.ema.nothing') and not is_known_field('trainer.max_steps.deeper')


def test_fields_of_each_node():
    assert 'max_epochs' in known_fields('trainer') and 'decay' in known_fields('exp_manager.ema')
    assert known_fields('exp_manager.wandb_logger_kwargs') is None  # any
    assert known_fields('model') == known_fields('exp_manager.nothing') == []


SIGNS = st.text(alphabet=st.sampled_from(''.join(map(chr, range(32, 127))) + '\né'), max_size=16)


def pasted(message: str) -> str:
    """What a shell makes of the argument that a message says to write."""
    (word,) = shlex.split(message.rpartition('write ')[2])
    return word


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(SIGNS)
def test_a_suggestion_pasted_into_a_shell_gives_the_text(text):
    parser = OverridesParser.create()
    try:
        parser.parse_overrides([f'name=a, {text}'])
    except OverrideParseException as error:
        word = pasted(override_error(error))
        assert parser.parse_override(word).value() == f'a, {text}'


def test_several_values_without_multirun_are_one_line_and_a_suggestion_that_works():
    with refusal('name', 'a, $b', '--multirun') as caught:
        load_config(overrides=['name=a, $b'])
    assert '\n' not in str(caught.value)
    assert OmegaConf.to_container(load_config(overrides=[pasted(str(caught.value))]))['name'] == 'a, $b'


def test_a_prompt_whose_quotes_the_shell_took_away_is_said_to_need_them():
    with refusal('duck', NO_VALUE, "'model.prompt=a duck'"):
        load_config(overrides=['model.prompt=a', 'duck'])
