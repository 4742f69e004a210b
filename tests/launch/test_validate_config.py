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

"""Broken configurations: one clear sentence each, before any work and without a file."""

import shlex
import time

import pytest
from hydra.errors import OverrideParseException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import NO_VALUE, check_refusal, refusal
from reliability import broken
from small_model import small_config

from nemo_dreamfusion.launch.command_line import plain_override_errors
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.launch.override_errors import override_error
from nemo_dreamfusion.launch.trainer import make_trainer

FEW = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
MANY = settings(FEW, max_examples=60)


@pytest.fixture(scope='module', autouse=True)
def no_file_is_written(tmp_path_factory):
    """Runs this module in an empty folder, which is as empty afterwards."""
    folder = tmp_path_factory.mktemp('empty')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield
    assert list(folder.iterdir()) == []


def refused(config) -> str | None:
    """What is said of a configuration; None when nothing is. Anything but one sentence fails."""
    began = time.monotonic()
    try:
        broken.validate(config)
        return None
    except ValueError as error:
        text = str(error)
    assert text and len(text) < 4000 and not text.startswith('Traceback')
    assert time.monotonic() - began < 60
    return text


def test_the_shipped_configuration_is_right():
    assert refused(broken.whole()) is None


@FEW
@given(broken.misspelt())
def test_an_unknown_key_is_refused_by_name(case):
    config, key = case
    assert key in refused(config)


@FEW
@given(broken.no_number())
def test_what_is_no_number_is_refused_by_the_name_of_its_key(case):
    config, key = case
    assert key in refused(config)


@pytest.mark.slow
@MANY
@given(broken.added())
def test_keys_of_nemo_and_lightning_that_our_files_lack_are_taken_or_refused_in_one_sentence(case):
    refused(case[0])


@FEW
@given(st.one_of(broken.anything(), broken.lacking()))
def test_anything_anywhere_is_taken_or_refused_in_one_sentence(case):
    refused(case[0])


GROUPS = 'model.optim_param_groups'
SCHED = 'model.optim.sched'
SAVING = 'exp_manager.checkpoint_callback_params'
STOPPING = 'exp_manager.early_stopping_callback_params'


@pytest.mark.parametrize(
    ('override', 'key', 'value', 'way_out'),
    [
        ('+model.promt=x', 'model.promt', NO_VALUE, 'model.prompt'),
        ('+trainer.max_step=3', 'trainer.max_step', NO_VALUE, 'trainer.max_steps'),
        (
            '+exp_manager.resume_if_exist=true',
            'exp_manager.resume_if_exist',
            NO_VALUE,
            'exp_manager.resume_if_exists',
        ),
        ('model.optim.name=adm', 'model.optim.name', 'adm', 'model.optim.name=adam'),
        ('+model.data.train.batchsize=2', 'model.data.train.batchsize', NO_VALUE, 'model.data.train.batch_size'),
        ('trainer.accelerator=abacus', 'trainer', 'abacus', 'cpu'),
        ('model.renderer.bound=2', 'model.renderer.bound', 2, 'model.nerf.bound'),
        ('trainer.logger=true', 'trainer.logger', True, 'trainer.logger=false'),
        (f'{SAVING}.every_n_epochs=1', SAVING, 'every_n_epochs=1', 'every_n_train_steps=200'),
        (
            '+exp_manager.ema.cpu_offload=true',
            'exp_manager.ema.cpu_offload',
            True,
            'exp_manager.ema.cpu_offload=false',
        ),
        ('exp_manager.ema.decay=1', 'exp_manager.ema.decay', 1, 'less than 1'),
        ('model.iters=${model.itres}', 'model.iters', 'model.itres', 'not found'),
        ('model.prompt=7', 'model.prompt', 7, 'text'),
        ('+model.foo=1', 'model.foo', NO_VALUE, 'prompt'),
        (f'+{GROUPS}={{nerff: {{lr: 1e-2}}}}', f'{GROUPS}.nerff', NO_VALUE, f'{GROUPS}.nerf'),
        (f'+{GROUPS}={{guidance: {{lr: 1e-2}}}}', f'{GROUPS}.guidance', NO_VALUE, 'nerf'),
        (f'+{GROUPS}={{nerf: {{lrr: 1e-2}}}}', f'{GROUPS}.nerf.lrr', NO_VALUE, f'{GROUPS}.nerf.lr'),
        (f'+{GROUPS}={{nerf: {{lr: 0}}}}', f'{GROUPS}.nerf.lr', 0, 'greater than 0'),
        (f'+{GROUPS}={{nerf: 3}}', f'{GROUPS}.nerf', 3, 'mapping'),
        (f'+{GROUPS}=[nerf]', GROUPS, ['nerf'], 'mapping'),
        (
            '+model.optim._target_=nemo.core.optim.adan.Adan',
            'model.optim._target_',
            'nemo.core.optim.adan.Adan',
            'model.optim.name=adan',
        ),
        ('+model.optim._target_=torch.optim.AdmaW', 'model.optim._target_', 'torch.optim.AdmaW', 'torch.optim.AdamW'),
        (
            '+model.optim._target_=torch.optim.lr_scheduler.StepLR',
            'model.optim._target_',
            'torch.optim.lr_scheduler.StepLR',
            'torch.optim.*',
        ),
        ('model.optim.name=sharded_adam', 'model.optim.name', 'sharded_adam', 'trainer.devices'),
        ('model.optim.name=megatron_fused_adam', 'model.optim.name', 'megatron_fused_adam', 'apex'),
        ('model.optim.name=distributed_fused_adam', 'model.optim.name', 'distributed_fused_adam', 'apex'),
        (f'+{SCHED}=null', SCHED, None, 'name'),
        (f'+{SCHED}={{warmup_steps: 3}}', f'{SCHED}.name', None, 'CosineAnnealing'),
        (
            f'+{SCHED}={{name: CosineAnnealing, warmup_stps: 3}}',
            f'{SCHED}.warmup_stps',
            NO_VALUE,
            f'{SCHED}.warmup_steps',
        ),
        (f'+{SCHED}={{name: CosineAnnealing, warmup_steps: abc}}', SCHED, 'CosineAnnealing', 'int'),
        (
            f'+{SCHED}={{name: CosineAnnealing, warmup_steps: 3, warmup_ratio: 0.1}}',
            SCHED,
            'CosineAnnealing',
            'ratio',
        ),
        (f'+{SCHED}={{name: StepLR}}', SCHED, 'StepLR', 'step_size'),
        (f'+{SAVING}.async_save=true', f'{SAVING}.async_save', True, f'{SAVING}.async_save=false'),
        (
            '+exp_manager.create_early_stopping_callback=perhaps',
            'exp_manager.create_early_stopping_callback',
            'perhaps',
            'bool',
        ),
        (f'{SAVING}={{monitor: foo, save_top_k: 2}}', f'{SAVING}.monitor', 'foo', f'{SAVING}.monitor=loss'),
        (f'{SAVING}=null', SAVING, None, 'mapping'),
        (
            '+exp_manager.create_early_stopping_callback=true',
            f'{STOPPING}.monitor',
            'val_loss',
            f'{STOPPING}.monitor=loss',
        ),
        ('+trainer.limit_train_batches=0', 'trainer.limit_train_batches', 0, 'trainer.max_steps'),
        ('+trainer.limit_train_batches=0.01', 'trainer.limit_train_batches', 0.01, 'trainer.max_steps'),
        ('+trainer.max_epochs=0', 'trainer.max_epochs', 0, 'at least 1'),
        ('+trainer.fast_dev_run=true', 'trainer.fast_dev_run', True, 'trainer.max_steps=10'),
        ('preview_interval=-1', 'preview_interval', -1, 'at least 0'),
        ('mesh_resolution=4', 'mesh_resolution', 4, 'at least 8'),
        ('mesh_faces=3', 'mesh_faces', 3, 'at least 100'),
        ('texture_size=0', 'texture_size', 0, 'at least 64'),
        ('texture_size=100000', 'texture_size', 100000, 'at most 4096'),
    ],
)
def test_each_refusal_names_key_value_and_what_to_set(override, key, value, way_out):
    check_refusal(refused(small_config(override)), key, value, way_out)


@pytest.mark.parametrize(
    ('override', 'named'),
    [
        ('+exp_manager.create_mlflow_logger=true', 'mlflow'),
        ('+exp_manager.create_clearml_logger=true', 'clearml'),
        ('+exp_manager.create_dllogger_logger=true', 'DLLogger'),
        ('+exp_manager.create_fault_tolerance_callback=true', 'create_fault_tolerance_callback'),
        ('+exp_manager.create_straggler_detection_callback=true', 'create_straggler_detection_callback'),
        ('+exp_manager.max_time_per_run=soon', 'soon'),
    ],
)
def test_what_exp_manager_refuses_is_one_sentence_that_names_it(override, named, tmp_path):
    with refusal('exp_manager', NO_VALUE, 'exp_manager') as caught:
        make_trainer(small_config(override), tmp_path, [])
    assert named in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'overrides',
    [
        ['+model.optim_param_groups={nerf: {lr: 1e-2, weight_decay: 0.1}}'],
        ['+model.optim.sched={name: CosineAnnealing, warmup_steps: 2, min_lr: 1e-5}'],
        ['+model.optim.sched={name: ReduceLROnPlateau, monitor: loss}'],
        ['+model.optim._target_=torch.optim.AdamW'],
        [
            '+exp_manager.create_early_stopping_callback=true',
            '+exp_manager.early_stopping_callback_params.monitor=loss',
        ],
        [
            '+exp_manager.create_early_stopping_callback=true',
            '+exp_manager.early_stopping_callback_params.monitor=opacity',
        ],
        ['exp_manager.checkpoint_callback_params={monitor: gradient_norm, save_top_k: 2, every_n_train_steps: 9}'],
        ['exp_manager.checkpoint_callback_params={monitor: null, save_top_k: -1, every_n_train_steps: 9}'],
        ['exp_manager.ema=null'],
        ['+trainer.limit_train_batches=0.5', '+trainer.max_epochs=-1'],
        ['preview_interval=0', 'mesh_resolution=0'],
    ],
)
def test_what_nemo_lightning_and_the_pages_offer_is_taken(overrides):
    assert refused(small_config(*overrides)) is None


def test_an_optimizer_that_takes_no_groups_is_refused():
    options = ['+model.optim._target_=torch.optim.LBFGS', '~model.optim.betas', '~model.optim.eps']
    check_refusal(refused(small_config(*options)), 'model.optim', 'LBFGS', 'parameter groups')


def test_an_export_takes_a_file_name_in_capitals_and_needs_a_resolution():
    assert 'mesh_fname' not in refused(small_config('mode=export-mesh', 'mesh_fname=OUT.GLB'))
    assert 'mesh_fname' in refused(small_config('mode=export-mesh', 'mesh_fname=OUT.3DS'))
    assert 'mesh_resolution' in refused(small_config('mode=export-mesh', 'mesh_resolution=0'))


@pytest.mark.parametrize(
    ('argument', 'key', 'value', 'way_out'),
    [
        ("model.prompt=a duck's hat", 'model.prompt', "a duck's hat", '"model.prompt=\'a duck\\\'s hat\'"'),
        ("model.prompt='a duck's hat'", 'model.prompt', "'a duck's hat'", '"model.prompt=\'a duck\\\'s hat\'"'),
        ('model.promt=a', 'model.promt', NO_VALUE, 'model.prompt'),
        ('model/guidance=sd_hugginface', 'model/guidance/sd_hugginface', NO_VALUE, 'model/guidance=sd_huggingface'),
        ('model/nerf=foo', 'model/nerf/foo', NO_VALUE, 'torchngp'),
    ],
)
def test_what_hydra_refuses_is_one_line_that_says_what_to_write(argument, key, value, way_out, capsys):
    with pytest.raises(SystemExit) as caught, plain_override_errors():
        small_config(argument)
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and printed.count('\n') == 1
    check_refusal(printed, key, value, way_out)
    assert 'Config search path' not in printed and 'Lexer' not in printed


def test_a_program_gets_the_same_sentence_as_an_exception():
    for override, close in (('model.promt=a', 'model.prompt'), ('model/nerf=torchngb', 'model/nerf=torchngp')):
        with refusal(override.partition('=')[0].replace('nerf', 'nerf/torchngb'), NO_VALUE, close):
            load_config(overrides=[override])


@pytest.mark.parametrize('text', ["a duck's hat", 'a "big" duck', "it's $5", "back\\slash's", 'a, b'])
def test_the_advised_quoting_is_right_in_the_shell_and_in_hydra(text):
    with pytest.raises(OverrideParseException) as caught:
        small_config(f"model.prompt=({text}")  # an open bracket is in no unquoted value
    _, _, word = override_error(caught.value).partition(' write ')
    ((said,),) = (shlex.split(word),)
    assert small_config(said).model.prompt == f'({text}'


def test_a_list_whose_items_need_quotes_is_written_with_them():
    with pytest.raises(OverrideParseException) as caught:
        small_config('pictures=[a=b, model.prompt=a duck]')
    (said,) = shlex.split(override_error(caught.value).partition(' Write ')[2])
    assert small_config(said).pictures == ['a=b', 'model.prompt=a duck']


def test_a_prompt_that_nemo_takes_for_a_metric_is_refused_where_it_would_crash_later():
    keep = 'exp_manager.checkpoint_callback_params.save_top_k=1'
    assert 'save_top_k=0' in refused(small_config(keep, 'model.prompt=a glossy car'))
    assert refused(small_config(keep, 'model.prompt=a car', 'exp_manager.exp_dir=results')) is None
