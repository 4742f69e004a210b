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

"""Ctrl-C: the step finishes, a checkpoint is there, and a resumed run ends where an unbroken one does."""

import os
import signal

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint

from nemo_dreamfusion.callbacks.interrupt import SaveOnInterrupt
from nemo_dreamfusion.launch.checkpoint_io import SafeCheckpointIO, newest_good

pytestmark = pytest.mark.filterwarnings('ignore')


def interrupt_at(*steps, number=signal.SIGINT):
    def act(model, step):
        for _ in range(steps.count(step)):
            os.kill(os.getpid(), number)

    return act


def checkpointing(folder):
    return ModelCheckpoint(dirpath=folder, filename='ball-{step}', save_last=True, every_n_train_steps=100)


@pytest.mark.parametrize('with_callback', [True, False])
def test_first_press_saves_and_a_resumed_run_ends_the_same(ball, cameras, trainer, tmp_path, with_callback):
    whole = ball()
    trainer(max_steps=8, limit_val_batches=0).fit(whole, cameras)

    before = signal.getsignal(signal.SIGINT)
    guard, others = SaveOnInterrupt(), [checkpointing(tmp_path / 'checkpoints')] if with_callback else []
    run = trainer(guard, *others, max_steps=8, limit_val_batches=0)
    run.fit(ball(interrupt_at(3)), cameras)
    assert guard.interrupted and run.global_step == 4  # the step at hand was finished
    assert signal.getsignal(signal.SIGINT) is before

    saved = list((tmp_path / 'checkpoints').glob('*last.ckpt'))
    assert len(saved) == 1
    resumed = ball()
    again = SaveOnInterrupt()
    trainer(again, max_steps=8, limit_val_batches=0).fit(resumed, cameras, ckpt_path=saved[0])
    assert resumed.nerf.radius.item() == whole.nerf.radius.item() and not again.interrupted


def test_second_press_stops_at_once_and_the_signal_is_given_back(ball, cameras, trainer):
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)):  # Lightning exits after a KeyboardInterrupt
            trainer(SaveOnInterrupt(), max_steps=8, limit_val_batches=0).fit(ball(interrupt_at(2, 2)), cameras)
    finally:
        after = signal.signal(signal.SIGINT, before)
    assert after in (before, signal.SIG_IGN)  # not the callback's own any more


def test_nothing_happens_without_a_press(ball, cameras, trainer, tmp_path):
    guard = SaveOnInterrupt()
    run = trainer(guard, max_steps=3, limit_val_batches=0)
    run.fit(ball(), cameras)
    assert run.global_step == 3 and not guard.interrupted and not list(tmp_path.rglob('*.ckpt'))


def test_a_warning_outside_of_slurm_ends_the_fit_with_everything_saved(ball, cameras, trainer, tmp_path):
    guard = SaveOnInterrupt()
    run = trainer(guard, checkpointing(tmp_path / 'checkpoints'), max_steps=8, limit_val_batches=0)
    run.fit(ball(interrupt_at(3, number=signal.SIGUSR1)), cameras)
    assert run.global_step == 4 and guard.exit_code == 128 + signal.SIGUSR1
    assert len(list((tmp_path / 'checkpoints').glob('*last.ckpt'))) == 1


def test_what_slurm_warns_of_is_saved_where_the_same_command_looks(ball, cameras, trainer, tmp_path, monkeypatch):
    """With Lightning's own handler: it saves ``hpc_ckpt_1.ckpt``, asks for the job again, and the fit goes on."""
    program = tmp_path / 'bin' / 'scontrol'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n', encoding='utf-8')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{program.parent}:{os.environ["PATH"]}')
    for name, value in {'JOB_ID': '7', 'NTASKS': '1', 'PROCID': '0', 'LOCALID': '0', 'NODEID': '0'}.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    whole = ball()
    trainer(max_steps=8, limit_val_batches=0).fit(whole, cameras)

    folder, guard, plugins = tmp_path / 'run', SaveOnInterrupt(), [SLURMEnvironment(), SafeCheckpointIO()]
    run = trainer(guard, max_steps=6, limit_val_batches=0, plugins=plugins, default_root_dir=folder)
    run.fit(ball(interrupt_at(3, number=signal.SIGUSR1)), cameras)
    assert run.global_step == 6 and not guard.interrupted
    assert (tmp_path / 'requeued').read_text(encoding='utf-8') == 'requeue 7\n'
    assert (folder / 'hpc_ckpt_1.ckpt').is_file()
    saved = newest_good(folder / 'checkpoints')
    assert 'step=4' in saved.name  # the step at hand was finished

    resumed = ball()
    trainer(max_steps=8, limit_val_batches=0).fit(resumed, cameras, ckpt_path=saved)
    assert resumed.nerf.radius.item() == whole.nerf.radius.item()
