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

"""The loggers of exp_manager: what they need is known before the fit."""

import sys
import types
from importlib.machinery import ModuleSpec

import pytest
from nemo.utils.exp_manager import ExpManagerConfig
from refusals import refusal

from nemo_dreamfusion.launch import loggers
from nemo_dreamfusion.launch.loggers import PACKAGES, check_loggers

PREFIXES = ('WANDB_', 'NEPTUNE_', 'CLEARML_')


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for name in [name for name in loggers.os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('NETRC', str(tmp_path / '.netrc'))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that lets a package be found: the check looks no further than that."""

    def install(name):
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)

    return install


def settings(name, **options):
    return {'create_tensorboard_logger': False, f'create_{name}_logger': True, f'{name}_logger_kwargs': options}


def test_every_logger_that_exp_manager_offers_is_checked():
    switches = {name for name in ExpManagerConfig.__dataclass_fields__ if name.endswith('_logger')}
    assert switches == {f'create_{name}_logger' for name in PACKAGES}


@pytest.mark.parametrize('name', [name for name in PACKAGES if loggers.find_spec(name) is None])
def test_a_package_that_is_not_installed_is_named(name):
    with refusal(f'exp_manager.create_{name}_logger', True, f'exp_manager.create_{name}_logger=false', 'pip install'):
        check_loggers(settings(name))


@pytest.mark.parametrize(
    ('name', 'way_out'),
    [('wandb', 'WANDB_MODE=offline'), ('neptune', 'NEPTUNE_API_TOKEN'), ('clearml', 'CLEARML_API_ACCESS_KEY')],
)
def test_a_key_that_is_missing_is_asked_for(installed, name, way_out):
    installed(name)
    with refusal(f'exp_manager.create_{name}_logger', True, way_out, f'exp_manager.create_{name}_logger=false'):
        check_loggers(settings(name, project='p'))


@pytest.mark.parametrize('name', ['wandb', 'neptune'])
def test_a_project_that_is_missing_is_asked_for(installed, name):
    installed(name)
    with refusal(f'exp_manager.create_{name}_logger', True, f'exp_manager.{name}_logger_kwargs.project'):
        check_loggers(settings(name))


@pytest.mark.parametrize(
    ('name', 'variable', 'value'),
    [
        ('wandb', 'WANDB_API_KEY', 'k' * 40),
        ('wandb', 'WANDB_MODE', 'offline'),
        ('wandb', 'WANDB_MODE', 'disabled'),
        ('neptune', 'NEPTUNE_API_TOKEN', 'token'),
        ('clearml', 'CLEARML_OFFLINE_MODE', '1'),
    ],
)
def test_a_variable_is_enough(installed, monkeypatch, name, variable, value):
    installed(name)
    monkeypatch.setenv(variable, value)
    check_loggers(settings(name, project='p'))


def test_who_is_logged_in_to_wandb_is_known(installed, monkeypatch, tmp_path):
    installed('wandb')
    (tmp_path / '.netrc').write_text('machine api.wandb.ai\n  login user\n  password kkk\n', encoding='utf-8')
    check_loggers(settings('wandb', project='p'))
    monkeypatch.setenv('WANDB_BASE_URL', 'https://wandb.example.org')  # another server than that of the key
    with refusal('exp_manager.create_wandb_logger', True, 'WANDB_MODE=offline'):
        check_loggers(settings('wandb', project='p'))


def test_an_offline_run_needs_no_key(installed, tmp_path):
    installed('wandb')
    check_loggers(settings('wandb', project='p', offline=True))
    (tmp_path / 'wandb').mkdir()
    (tmp_path / 'wandb' / 'settings').write_text('[default]\nmode = offline\n', encoding='utf-8')
    check_loggers(settings('wandb', project='p'))


def test_tensorboard_alone_is_right():
    check_loggers({'create_tensorboard_logger': True, 'summary_writer_kwargs': None})
