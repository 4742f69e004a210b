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


"""Lightning's and exp_manager's own fields can be set without a +, and a hint never leads away from one of them."""

import pytest
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.launch import load_config
from nemo_dreamfusion.launch.known_fields import add_known_fields, is_known_field, known_fields

pytestmark = pytest.mark.unit


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
    others = [
        '--config-name',
        'dreamfusion',
        'model.seed=2',
        '+model.x=1',
        '~trainer.logger',
        'trainer',
        'trainer.no=1',
    ]
    assert add_known_fields(others) == others
    assert not is_known_field('exp_manager.ema.nothing') and not is_known_field('trainer.max_steps.deeper')


def test_fields_of_each_node():
    assert 'max_epochs' in known_fields('trainer') and 'decay' in known_fields('exp_manager.ema')
    assert known_fields('exp_manager.wandb_logger_kwargs') is None  # any
    assert known_fields('model') == known_fields('exp_manager.nothing') == []
