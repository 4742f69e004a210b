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

"""The folder of a run: which configurations it goes on with, from which checkpoint on every rank, and until when."""

import os
from functools import cache

import pytest
from omegaconf import OmegaConf
from refusals import refusal
from reliability import fits
from small_model import small_config

from nemo_dreamfusion.launch.checkpoint_io import SafeCheckpointIO, prepare_resume
from nemo_dreamfusion.launch.command_line import UNFINISHED
from nemo_dreamfusion.launch.configuration import prepare_config
from nemo_dreamfusion.launch.run_folder import check_same_object, config_of_run, is_finished
from nemo_dreamfusion.launch.trainer import make_trainer
from nemo_dreamfusion.models.dreamfusion import DreamFusion

PLACE = '++model.guidance.checkpoint=/models/sd.nemo'


@cache
def configuration(*overrides):
    return OmegaConf.to_container(small_config(*overrides), resolve=True)


@pytest.mark.parametrize(
    ('before', 'now', 'key', 'then', 'value'),
    [
        ([], ['exp_manager.ema.enable=true'], 'exp_manager.ema.enable', None, True),
        (
            ['exp_manager.ema.enable=true'],
            ['exp_manager.ema={enable: true, decay: 0.9}'],
            'exp_manager.ema.decay',
            0.999,
            0.9,
        ),
        ([], ['++trainer.gradient_clip_algorithm=value'], 'trainer.gradient_clip_algorithm', 'norm', 'value'),
        ([], ['++trainer.accumulate_grad_batches=2'], 'trainer.accumulate_grad_batches', 1, 2),
        ([], ['restore_from_path=other.nemo'], 'restore_from_path', None, 'other.nemo'),
        ([], ['trainer.devices=2'], 'trainer.devices x trainer.num_nodes', 1, 2),
        (
            ['trainer.accelerator=cpu', 'trainer.devices=2'],
            ['trainer.accelerator=cpu', 'trainer.devices=auto'],  # one process, as on every CPU
            'trainer.devices x trainer.num_nodes',
            2,
            1,
        ),
        ([], ['model.guidance.source=/models/other'], 'model.guidance.source', 'pocket', 'other'),
        (
            [PLACE],
            ['++model.guidance.checkpoint=/models/sd2.nemo'],
            'model.guidance.checkpoint',
            'sd.nemo',
            'sd2.nemo',
        ),
        (
            ['model.guidance.source=a/model'],
            ['model.guidance.source=b/model'],
            'model.guidance.source',
            'a/model',
            'b/model',
        ),
        ([], ['trainer.precision=bf16-mixed'], 'trainer.precision', '32', 'bf16'),
        ([], ['model.data.train.batch_size=2'], 'model.data.train.batch_size', 1, 2),
    ],
)
def test_what_changes_the_result_is_refused(before, now, key, then, value, tmp_path):
    with refusal(key, value, f'{then!r} then', 'exp_manager.exp_dir', str(tmp_path)):
        check_same_object(tmp_path, configuration(*before), configuration(*now))


@pytest.mark.parametrize(
    ('before', 'now'),
    [
        ([], ['trainer.max_steps=99', 'model.compile=true', 'model.data.test.views=3', 'model.data.val.height=9']),
        (['~model.guidance.networks.compile', '~model.compile'], []),
        (['~model.renderer.samples_per_chunk', '+model.renderer.rays_per_chunk=4096'], []),
        ([], ['++trainer.accumulate_grad_batches=1', 'exp_manager.ema.decay=0.5']),
        (['trainer.devices=4'], ['trainer.devices=[0, 1]', 'trainer.num_nodes=2']),
        ([PLACE], ['++model.guidance.checkpoint=/elsewhere/sd.nemo']),
        ([PLACE], ['++model.guidance.checkpoint=elsewhere/sd.nemo']),
        (['model.guidance.source=/models/sd'], ['model.guidance.source=./sd']),
        (['trainer.precision=null'], ['trainer.precision=32']),
        (['trainer.precision=32'], ['trainer.precision=32-true']),
        (['trainer.precision=bf16'], ['trainer.precision=bf16-mixed']),
        (
            ['trainer.num_nodes=null'],
            ['++trainer.accumulate_grad_batches=null', '++trainer.gradient_clip_algorithm=norm'],
        ),
    ],
)
def test_what_changes_no_result_is_not(before, now, tmp_path):
    check_same_object(tmp_path, configuration(*before), configuration(*now))


def test_the_configuration_is_found_where_nemo_moves_it(tmp_path):
    assert config_of_run(tmp_path) is None
    for number in (0, 1):
        (tmp_path / f'run_{number}').mkdir()
        (tmp_path / f'run_{number}' / 'config.yaml').write_text(f'{{model: {{seed: {number}}}, trainer: {{}}}}')
    assert config_of_run(tmp_path)['model']['seed'] == 1


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_every_rank_resumes_from_the_newest_good_checkpoint_and_the_first_alone_clears_up(tmp_path, monkeypatch):
    cfg = fits.tiny(tmp_path)
    io, folder = SafeCheckpointIO(), tmp_path / 'checkpoints'
    for name in ('a-step=2-last.ckpt.previous', 'a-step=4-last.ckpt', 'a-step=6-last.ckpt', '.a-step=8-last-01.ckpt'):
        io.save_checkpoint({'state_dict': {}}, folder / name)
    for step in (4, 6):
        (folder / f'a-step={step}-last.ckpt').write_bytes(b'damaged')
    before = files(folder)
    monkeypatch.setenv('RANK', '1')
    early = make_trainer(cfg, tmp_path, []).ckpt_path
    assert files(folder) == before
    monkeypatch.setenv('RANK', '0')
    first = make_trainer(cfg, tmp_path, []).ckpt_path
    monkeypatch.setenv('RANK', '1')
    late = make_trainer(cfg, tmp_path, []).ckpt_path
    assert early == first == late == str(folder / 'a-step=2-last.ckpt') == str(prepare_resume(folder))


def test_sigterm_stays_ours_where_there_are_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    trainer = make_trainer(fits.tiny(tmp_path), tmp_path, [])
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert 'NeMoModelCheckpoint' in names and 'PreemptionCallback' not in names


def test_a_time_limit_that_a_resumed_run_would_have_used_up_is_refused(tmp_path):
    with refusal('trainer.max_time', '00:00:01:00', 'exp_manager.max_time_per_run'):
        prepare_config(fits.tiny(tmp_path, '++trainer.max_time="00:00:01:00"'))


def test_the_processes_server_leaves_the_environment_of_the_tests_as_it_is(monkeypatch):
    monkeypatch.delenv('PYTHONPATH', raising=False)
    fits.server()
    assert 'PYTHONPATH' not in os.environ


def test_a_run_that_ends_before_its_last_step_says_so_and_leaves_no_object(tmp_path):
    cfg = fits.tiny(tmp_path, 'model.data.steps_per_epoch=3', '++trainer.max_epochs=1')
    assert fits.finish(cfg, tmp_path / 'log') == UNFINISHED
    assert 'Stopped at step 3 of 8' in (tmp_path / 'log').read_text() and not fits.ends(tmp_path)
    del cfg.trainer.max_epochs
    assert fits.finish(cfg, tmp_path / 'log') == 0
    assert fits.last_checkpoint(tmp_path)['global_step'] == 8 and fits.ends(tmp_path)


def test_early_stopping_is_an_end_where_it_stopped_the_run_and_not_where_it_only_watched(tmp_path):
    watch = 'exp_manager.early_stopping_callback_params={monitor: loss, patience: 1, min_delta: 100.0, mode: min}'
    epochs = ('model.data.steps_per_epoch=2', '+exp_manager.create_early_stopping_callback=true')
    cfg = fits.tiny(tmp_path, '++trainer.max_epochs=1', *epochs, f'+{watch}')
    assert fits.finish(cfg, tmp_path / 'log') == UNFINISHED
    assert 'Stopped at step 2 of 8' in (tmp_path / 'log').read_text() and not fits.ends(tmp_path)
    del cfg.trainer.max_epochs
    assert fits.finish(cfg, tmp_path / 'log', before=fits.leave_metrics) == 0
    folder = fits.folder_of(tmp_path)
    assert (
        fits.last_checkpoint(tmp_path)['global_step'] == 6
    )  # two looks: where it was resumed there is no loss to see
    assert is_finished(folder, 8) and not is_finished(folder, 9)
    before = files(folder)
    assert fits.finish(cfg, tmp_path / 'log') == 0
    assert f'Finished before: {folder}' in (tmp_path / 'log').read_text() and files(folder) == before


def test_a_mesh_that_could_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    archive = tmp_path / 'DreamFusion.nemo'
    DreamFusion(small_config().model).save_to(str(archive))
    cfg = small_config('mode=export-mesh', f'restore_from_path={archive}', 'mesh_fname=/proc/x/out.glb')
    with refusal('mesh_fname', '/proc/x', 'another folder'):
        prepare_config(cfg)
