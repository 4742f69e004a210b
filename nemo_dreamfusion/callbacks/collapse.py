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

"""Warn about an object that has vanished, filled its box or turned to fog."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemo_dreamfusion.callbacks.views import make_orbit, render_cameras
from nemo_dreamfusion.parts.checks import check_positive, check_range

logger = logging.getLogger('nemo_dreamfusion.callbacks.collapse')

GONE = 0.005  # mean opacity below which nothing is left
FULL = 0.95  # opacity above which a pixel is solid
WALL = 0.5  # share of the border that no object within the pictures makes solid
CLEAR = 0.05  # opacity below which a pixel is empty
HAZE = 0.1  # opacity that almost the whole border exceeds when fog fills the box
FOG_SHARE = 0.7  # share of half-transparent pixels that no object has


def diagnose(opacity: Tensor) -> str | None:
    """Say what is wrong with a scene, and what to try; None if nothing is.

    Args:
        opacity: [B, H, W] in [0, 1], of B views around the scene.
    """
    opacity = opacity.detach().float()
    if not opacity.isfinite().all():
        return (
            'The field is broken: its renders are not finite numbers. Try a lower learning rate (model.optim.lr), and '
            'trainer.precision=32.'
        )
    mean = opacity.mean().item()
    inner = torch.zeros_like(opacity, dtype=torch.bool)
    inner[:, 1:-1, 1:-1] = True
    border = opacity[~inner]
    if mean < GONE:
        return (
            f'Nothing is left: the object covers {100 * mean:.1f} % of its pictures. Try a smaller '
            'model.loss.lambda_opacity and model.loss.lambda_entropy (a schedule [start_step, 0, weight, end_step] lets '
            'the object form first), a denser start (model.nerf.blob_density), a lower model.optim.lr, or another '
            'model.seed.'
        )
    walled = (border > FULL).float().mean().item()
    if walled > WALL:
        return (
            f'Everything is solid: {100 * mean:.0f} % of the pictures and {100 * walled:.0f} % of their edges are covered, '
            'so the cameras stand inside of the object or before a wall. Try a larger model.loss.lambda_opacity, a smaller '
            'model.nerf.blob_radius, model/background=random, or another model.seed.'
        )
    half_clear = ((opacity > CLEAR) & (opacity < FULL)).float().mean().item()
    if half_clear > FOG_SHARE or HAZE < border.quantile(0.1).item() < FULL:
        return (
            f'All is fog: {100 * half_clear:.0f} % of the pixels are neither solid nor empty, and haze reaches the edges. '
            'Try more steps (trainer.max_steps) if these were few; else a larger model.loss.lambda_entropy and '
            'model.loss.lambda_opacity, model/background=random (fog cannot imitate a background that changes), a lower '
            'model.optim.lr, or another model.seed.'
        )
    return None


class CollapseDetection(pl.Callback):
    """Render a few small views at an interval, and warn once when their opacity says that the object has collapsed.

    Args:
        interval: steps between two checks.
        warmup_steps: steps before the first check, in which everything may still be fog.
        views: number of views around the object.
        size: pixels of a side of each.
    """

    def __init__(self, *, interval: int = 50, warmup_steps: int = 150, views: int = 4, size: int = 32) -> None:
        self.interval = check_positive('interval', interval, integer=True)
        self.warmup_steps = check_range('warmup_steps', warmup_steps, 0, integer=True)
        self.views = check_positive('views', views, integer=True)
        self.size = check_range('size', size, 4, integer=True)
        self.message: str | None = None  # of the last check

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check every ``interval`` steps."""
        step = trainer.global_step
        if step >= self.warmup_steps and step % self.interval == 0 and trainer.is_global_zero:
            self.check(trainer, pl_module)

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str | None:
        """Render and diagnose; warn when the finding is new."""
        orbit = make_orbit(trainer, self.views, self.size)
        message = diagnose(render_cameras(pl_module, orbit.all()).opacity[..., 0])
        if _kind(message) != _kind(self.message):
            if message:
                logger.warning('Step %d. %s', trainer.global_step, message)
            else:
                logger.warning('Step %d. The object has recovered.', trainer.global_step)
        self.message = message
        return message


def _kind(message: str | None) -> str | None:
    """Return the finding without its numbers: the words before the colon."""
    return message and message.partition(':')[0]
