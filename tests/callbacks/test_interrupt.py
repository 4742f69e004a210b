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
from lightning.pytorch.callbacks import ModelCheckpoint

from nemo_dreamfusion.callbacks.interrupt import SaveOnInterrupt

pytestmark = pytest.mark.filterwarnings('ignore')


def interrupt_at(*steps):
    def act(model, step):
        for _ in range(steps.count(step)):
            os.kill(os.getpid(), signal.SIGINT)

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
