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

"""How far a fit is, with what tells whether it does well (the score-distillation loss does not)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar as LightningProgress
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

_SHOWN_SECONDS = 0.2  # how old the numbers behind the bar may be: reading one makes the host wait for a GPU
_MEMORY = 0.9  # of the running mean of the step time: it forgets in about ten steps
SHOWN = {'opacity': ('opacity', '.2f'), 'gradient': ('gradient_norm', '.3g')}
LINE_SECONDS = 30.0  # between two lines of a log
LINE_SHARE = 0.01  # of all steps, between two lines: at most a hundred lines a fit


def make_progress() -> LightningProgress:
    """Return a bar for a terminal or a notebook, and lines now and then for a file or a pipe."""
    return ProgressBar() if sys.stdout.isatty() or _in_notebook() else ProgressLines()


def _in_notebook() -> bool:
    ipython = sys.modules.get('IPython')
    shell = ipython and ipython.get_ipython()
    return type(shell).__name__ == 'ZMQInteractiveShell'


class StepMetrics:
    """The time of a step, the mean opacity and the gradient's norm, as text.

    Args:
        shown: what it is called -> the name it is logged under, and its format.
    """

    def __init__(self, shown: Mapping[str, tuple[str, str]] = SHOWN) -> None:
        self.shown = dict(shown)
        self.step_seconds: float | None = None
        self._began = 0.0
        self._read: dict[str, str] = {}
        self._read_at = -math.inf

    def start_step(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def end_step(self) -> None:
        """Stop the clock."""
        seconds = time.perf_counter() - self._began
        before = seconds if self.step_seconds is None else self.step_seconds
        self.step_seconds = _MEMORY * before + (1 - _MEMORY) * seconds

    def read(self, logged: Mapping[str, Tensor]) -> dict[str, str]:
        """Return the texts; what is logged is not read again within ``_SHOWN_SECONDS``."""
        if time.perf_counter() - self._read_at >= _SHOWN_SECONDS:
            found = {label: (name, form) for label, (name, form) in self.shown.items() if name in logged}
            self._read = {label: format(logged[name].item(), form) for label, (name, form) in found.items()}
            self._read_at = time.perf_counter()
        step = {} if self.step_seconds is None else {'step': f'{self.step_seconds:.2f}s'}
        return step | self._read


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with the metrics of a step, within 80 columns.

    What others send to the bar (NeMo its own time of a step) is not shown: a narrow terminal would cut ours off.

    Args:
        refresh_rate: steps between two refreshes.
        shown: of :class:`StepMetrics`.
    """

    BAR_FORMAT = '{desc} {n_fmt}/{total_fmt}|{bar}| {elapsed}<{remaining}{postfix}'  # no rate: a step's time says it

    def __init__(self, *, refresh_rate: int = 1, shown: Mapping[str, tuple[str, str]] = SHOWN) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.metrics = StepMetrics(shown)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.metrics.start_step()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx: int
    ) -> None:
        self.metrics.end_step()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the bars, so that the error has a line of its own."""
        for bar in (self._val_progress_bar, self._test_progress_bar, self._train_progress_bar):  # that of the fit last
            if bar is not None:
                bar.close()

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what stands behind the bar."""
        return {**self.metrics.read(trainer.callback_metrics)}

    def on_train_epoch_start(self, trainer: pl.Trainer, *args) -> None:
        """Say 'fit' where there is one epoch, and its number where there are more."""
        super().on_train_epoch_start(trainer, *args)
        if trainer.max_steps > 0 and self.total_train_batches >= trainer.max_steps:
            self.train_progress_bar.set_description_str('fit')


class ProgressLines(LightningProgress):
    """Lines for a file or a pipe: after the first step of a fit, after the last, and between them every half minute.

        fit 120/500 | 0:30 | step=0.25s, opacity=0.31, gradient=12.3

    In a fit of hours each hundredth of the steps has a line. A validation within a fit has none; one by itself, or a test,
    says when it has ended.

    Args:
        seconds: between two lines.
        share: of all steps, between two lines.
        shown: of :class:`StepMetrics`.
    """

    def __init__(
        self,
        *,
        seconds: float = LINE_SECONDS,
        share: float = LINE_SHARE,
        shown: Mapping[str, tuple[str, str]] = SHOWN,
    ) -> None:
        super().__init__()
        self.metrics = StepMetrics(shown)
        self.seconds, self.share = seconds, share
        self._enabled = True
        self._began = time.monotonic()
        self._said_at, self._said_step = -math.inf, -math.inf

    def disable(self) -> None:
        """Say nothing: Lightning asks for it on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Say something again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic()
        self._said_at, self._said_step = -math.inf, -math.inf

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        self.metrics.start_step()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx: int
    ) -> None:
        self.metrics.end_step()
        step, last = trainer.global_step, trainer.max_steps
        waited = time.monotonic() - self._said_at >= self.seconds and step - self._said_step >= self.share * last
        if self._said_step != step and (waited or step == last or trainer.should_stop):
            self._said_at, self._said_step = time.monotonic(), step
            values = self.metrics.read(trainer.callback_metrics).items()
            self._say(f'fit {step}/{last}', ', '.join(f'{name}={value}' for name, value in values))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._began = time.monotonic()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._say(f'validation of {sum(trainer.num_val_batches)} views')

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._say(f'test of {sum(trainer.num_test_batches)} views')

    def _say(self, *parts: str) -> None:
        if self._enabled:
            minutes, seconds = divmod(round(time.monotonic() - self._began), 60)
            print(' | '.join([parts[0], f'{minutes}:{seconds:02d}', *parts[1:]]), flush=True)
