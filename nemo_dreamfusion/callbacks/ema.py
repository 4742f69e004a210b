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

"""Exponential moving average of the parameters, which a resumed run continues.

NeMo 3.0 has such a callback (``exp_manager.ema``), but a run with it cannot be resumed: its checkpoint is read in a way
that torch refuses, and its optimizer wrapper fails on a CPU afterwards. Lightning 2.4 has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_positive, check_range


class MovingAverage(pl.Callback):
    """Keep average = decay * average + (1 - decay) * parameter, and leave the average in the model after the fit.

    The decay of the n-th update is at most (1 + n) / (10 + n), so that the random start is soon forgotten (as in
    ``tf.train.ExponentialMovingAverage``). Validation renders the average too. Checkpoints hold both: the parameters,
    to continue with, and the average as this callback's state.

    Args:
        decay: from 0 to below 1; 0.999 averages over about the last thousand updates.
        every_n_steps: steps between two updates.
        validate_original_weights: validate without the average.
    """

    def __init__(
        self, *, decay: float = 0.999, every_n_steps: int = 1, validate_original_weights: bool = False
    ) -> None:
        self.decay = check_range('exp_manager.ema.decay', decay, 0, 1, high_open=True)
        self.every_n_steps = check_positive('exp_manager.ema.every_n_steps', every_n_steps, integer=True)
        self.validate_original_weights = validate_original_weights
        self.average: dict[str, Tensor] = {}
        self.updates = 0
        self._seen_step = -1  # with accumulated gradients, several batches end at one step
        self._own: dict[str, Tensor] | None = None  # the parameters, while the average stands in their place

    @classmethod
    def from_config(cls, ema: Mapping[str, Any] | None) -> list[MovingAverage]:
        """Return the callback that NeMo's node ``exp_manager.ema`` asks for, in a list; [] where it is not enabled."""
        ema = dict(ema or {})
        options = {key: value for key, value in ema.items() if key not in ('enable', 'cpu_offload')}
        return [cls(**options)] if ema.get('enable') else []

    @torch.no_grad()
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the parameters, or continue with the checkpoint's average."""
        self._own, self._seen_step = None, trainer.global_step
        parameters: dict[str, Tensor] = dict(pl_module.named_parameters())
        if self.average.keys() != parameters.keys():
            self.average, self.updates = parameters, 0
        self.average = {name: value.detach().to(pl_module.device, copy=True) for name, value in self.average.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update once after each optimizer step that is due."""
        if trainer.global_step == self._seen_step or trainer.global_step % self.every_n_steps:
            return
        self._seen_step = trainer.global_step
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in pl_module.named_parameters():
            self.average[name].lerp_(parameter.detach().to(self.average[name].dtype), 1 - decay)

    @torch.no_grad()
    def _swap_in(self, pl_module: pl.LightningModule) -> None:
        if self._own is None and self.average:
            self._own = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
            _copy(self.average, pl_module)

    @torch.no_grad()
    def _swap_out(self, pl_module: pl.LightningModule) -> None:
        if self._own is not None:
            _copy(self._own, pl_module)
            self._own = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the model."""
        if not self.validate_original_weights:
            self._swap_in(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the parameters back."""
        self._swap_out(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the model, for the pictures, the mesh and the archive."""
        self._swap_in(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the parameters themselves, even while the average stands in their place."""
        if self._own is not None:
            checkpoint['state_dict'] = {**checkpoint['state_dict'], **self._own}

    def state_dict(self) -> dict[str, Any]:
        """Return the average, for the checkpoint."""
        return {'average': self.average, 'updates': self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average from a checkpoint."""
        self.average, self.updates = state_dict['average'], state_dict['updates']


def _copy(values: Mapping[str, Tensor], pl_module: pl.LightningModule) -> None:
    for name, parameter in pl_module.named_parameters():
        parameter.copy_(values[name])
