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

"""The progress bar: what tells whether a fit is doing well (the score-distillation loss does not)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

_SHOWN_SECONDS = 0.2  # how old the numbers behind the bar may be: reading one makes the host wait for a GPU
_MEMORY = 0.9  # of the running mean of the step time: it forgets in about ten steps
SHOWN = {'opacity': ('opacity', '.2f'), 'gradient': ('gradient_norm', '.3g')}


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with the time of a step, the mean opacity and the gradient's norm, within 80 columns.

    What others send to the bar (NeMo its own time of a step) is not shown: a narrow terminal would cut ours off.

    Args:
        refresh_rate: steps between two refreshes.
        shown: what the bar calls it -> the name it is logged under, and its format.
    """

    BAR_FORMAT = '{desc} {n_fmt}/{total_fmt}|{bar}| {elapsed}<{remaining}{postfix}'  # no rate: a step's time says it

    def __init__(self, *, refresh_rate: int = 1, shown: Mapping[str, tuple[str, str]] = SHOWN) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.shown = dict(shown)
        self.step_seconds: float | None = None
        self._began = 0.0
        self._read: dict[str, str] = {}
        self._read_at = -math.inf

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        """Starts the clock."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx: int
    ) -> None:
        """Stops the clock, then draws the bar."""
        seconds = time.perf_counter() - self._began
        before = seconds if self.step_seconds is None else self.step_seconds
        self.step_seconds = _MEMORY * before + (1 - _MEMORY) * seconds
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Ends the bars, so that the error has a line of its own."""
        for bar in (self._val_progress_bar, self._test_progress_bar, self._train_progress_bar):  # that of the fit last
            if bar is not None:
                bar.close()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, int | str | float]:
        """What stands behind the bar."""
        metrics = {} if self.step_seconds is None else {'step': f'{self.step_seconds:.2f}s'}
        return metrics | self._latest(trainer)

    def _latest(self, trainer: pl.Trainer) -> dict[str, str]:
        """What is logged, not read again within ``_SHOWN_SECONDS``."""
        if time.perf_counter() - self._read_at >= _SHOWN_SECONDS:
            logged = trainer.callback_metrics
            found = {label: (name, form) for label, (name, form) in self.shown.items() if name in logged}
            self._read = {label: format(logged[name].item(), form) for label, (name, form) in found.items()}
            self._read_at = time.perf_counter()
        return self._read

    def on_train_epoch_start(self, trainer: pl.Trainer, *args) -> None:
        """Says 'fit' where there is one epoch, and its number where there are more."""
        super().on_train_epoch_start(trainer, *args)
        if trainer.max_steps > 0 and self.total_train_batches >= trainer.max_steps:
            self.train_progress_bar.set_description_str('fit')
