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

"""End a fit after the current step on Ctrl-C, SIGTERM or SIGUSR1, with everything saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from nemo_dreamfusion.callbacks.exact_resume import within_step

logger = logging.getLogger('nemo_dreamfusion.callbacks.interrupt')

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class SaveOnInterrupt(pl.Callback):
    """Finish the step at the first signal, save a ``-last`` checkpoint and end the fit; stop at once at the second.

    The same command then continues where this one ended, bit for bit. Where Lightning has a handler for SIGUSR1 (it saves,
    and asks Slurm to queue the job again), that handler runs after the current step, and the fit goes on.

    Attributes:
        interrupted: whether a signal came.
        exit_code: what a shell expects then: 128 + the signal's number, 130 for Ctrl-C, 143 for SIGTERM (which
            clusters and containers send before they kill) and 138 for SIGUSR1 (which Slurm can be asked to send).
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.interrupted = False
        self.exit_code = 0
        self._requeue = False  # whether SIGUSR1 came, and Lightning's handler is to run
        self._before: dict[signal.Signals, Handler] = {}  # the handlers before the fit

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals, which only the main thread can."""
        self.interrupted, self.exit_code, self._requeue = False, 0, False
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end the fit if any rank was interrupted; all ranks leave after the same whole step."""
        if within_step(trainer):
            return
        if not _any_rank(trainer, self.interrupted or self._requeue):
            return
        self.requeue_if_asked(trainer)
        stop = _any_rank(trainer, self.interrupted)
        if stop and not trainer.should_stop:
            self.interrupted = True
            self.exit_code = self.exit_code or 128 + signal.SIGTERM  # another rank had the signal
            trainer.should_stop = True
            path = _save_last(trainer)
            logger.warning(
                'Stopped at step %d; saved %s. The same command goes on from there.', trainer.global_step, path
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back, so that what follows can be interrupted as usual."""
        self._release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release()

    def stop(self, reason: str, exit_code: int) -> None:
        """Finish the step, save and end the fit, as a signal does."""
        self.interrupted, self.exit_code = True, exit_code
        logger.warning('%s: finishing this step, then saving.', reason)

    def requeue_if_asked(self, trainer: pl.Trainer) -> None:
        """Run Lightning's own handler of SIGUSR1, between two steps, where the signal came to any rank."""
        if _any_rank(trainer, self._requeue):
            self._requeue = False
            handler = self._before.get(signal.SIGUSR1)
            if callable(handler):
                handler(signal.SIGUSR1, None)

    def save(self, trainer: pl.Trainer) -> str:
        """Save a checkpoint now, between two steps, and return its path; the same command would go on from it."""
        return _save_last(trainer)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1 and callable(self._before.get(signal.SIGUSR1)):
            self._requeue = True
            return
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted, self.exit_code = True, 128 + number
        name = 'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name
        logger.warning('%s: finishing this step, then saving. Once more stops at once.', name)

    def _release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _any_rank(trainer: pl.Trainer, decision: bool) -> bool:
    return trainer.strategy.reduce_boolean_decision(decision, all=False) if trainer.world_size > 1 else decision


def _save_last(trainer: pl.Trainer) -> str:
    """Save a checkpoint that resuming finds: the checkpoint callback's own last one, or else one beside the logs."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.save_last:
        # The callback must do it itself: exp_manager refuses to resume when it finds two files *-last.ckpt.
        callback._save_last_checkpoint(trainer, callback._monitor_candidates(trainer))
        return callback.last_model_path
    path = Path(trainer.default_root_dir) / 'checkpoints' / 'interrupted-last.ckpt'
    trainer.save_checkpoint(path)
    return str(path)
