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

"""Keep what a fit logs, as curves for its report."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_positive

_TIMING = 'timing'  # in NeMo's names of seconds, which a resumed run cannot repeat


class Curves(pl.Callback):
    """Keep every scalar that the model logs at some hundred steps of a fit.

    The values stay on their device until somebody asks: a fit never waits for them. Checkpoints hold them, so that the
    curves of a resumed run start at its first step.

    Args:
        points: of each curve, about.
    """

    def __init__(self, *, points: int = 250) -> None:
        self.points = check_positive('points', points, integer=True)
        self._kept: list[tuple[int, dict[str, Tensor]]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the values of this step, if it is due."""
        step = trainer.global_step
        interval = max(1, trainer.max_steps // self.points)
        due = step == 1 or step % interval == 0 or step == trainer.max_steps
        if not trainer.is_global_zero or not due or (self._kept and self._kept[-1][0] >= step):
            return
        logged = {name: value for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        told = {name: value.detach().clone() for name, value in logged.items() if _TIMING not in name}
        self._kept.append((step, told))

    def read(self) -> dict[str, list[tuple[int, float]]]:
        """Return the curves: name -> (step, value), steps ascending. Waits for the device."""
        curves: dict[str, list[tuple[int, float]]] = {}
        for step, values in self._kept:
            for name, value in values.items():
                curves.setdefault(name, []).append((step, value.item()))
        return curves

    def state_dict(self) -> dict[str, Any]:
        """Return the curves so far, for the checkpoint."""
        return {'curves': self.read()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curves of a checkpoint."""
        kept: dict[int, dict[str, Tensor]] = {}
        for name, points in state_dict['curves'].items():
            for step, value in points:
                kept.setdefault(int(step), {})[name] = torch.tensor(value)
        self._kept = sorted(kept.items())
