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


"""What every score is: from latents and predicted noise to a gradient g in latent space (descend along -g).

DreamFusion: Poole et al., https://arxiv.org/abs/2209.14988.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import WEIGHTINGS, NoiseModel, NoiseSchedule, weight
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor
from nemo_dreamfusion.modules.guidance.timesteps import check_progress_schedule
from nemo_dreamfusion.parts.build import Configurable
from nemo_dreamfusion.parts.checks import check_choice
from nemo_dreamfusion.parts.schedules import Schedule, linear_schedule


class Score(Configurable):
    """One way to turn a diffusion model's predictions into a gradient. The node ``model.guidance.score``.

    A subclass implements :meth:`gradient`. Model and mixing are arguments, so that a score owns its own options only.

    Args:
        weighting: w(t), one of ``WEIGHTINGS``.
        grad_clip: largest magnitude of an element of the gradient; null, a number, or [start, from, to, end] with start and
            end as shares of the run.

    Attributes:
        one_time_per_batch: whether all images of a batch must share one t.
        trains_unet: whether it trains adapters inside the UNet, which can then be neither compiled nor recorded nor an
            engine's plan.
        compares_source: whether it edits: reads ``Conditioning.source``, which the guidance then fills.
        fault_words: words for the faults of a render, which the guidance adds to each text for ``Conditioning.faulty``;
            empty where the score reads no such text.
        views: images of one object that stand next to each other in the batch and share one t; the guidance sets it.
    """

    one_time_per_batch = False
    trains_unet = False
    compares_source = False
    fault_words = ''
    views = 1

    def __init__(self, *, weighting: str = 'sds', grad_clip: Schedule | None = None) -> None:
        self.weighting = check_choice('model.guidance.score.weighting', weighting, WEIGHTINGS)
        if grad_clip is not None:
            check_progress_schedule('model.guidance.score.grad_clip', grad_clip, 0, 1e9)
        self.grad_clip = grad_clip

    def check_mixing(self, mixing: GuidanceMixing) -> None:
        """Raise ValueError for an option of the mixing that has no meaning with this score."""

    def prepare(self, schedule: NoiseSchedule, predictor: NoisePredictor | None) -> None:
        """Make what the score trains, once the networks are loaded.

        Args:
            schedule: the noise schedule, on the guidance's device.
            predictor: the frozen UNet on its device; None where there is none, as where an engine predicts the noise.
        """

    def start_step(self, progress: float) -> None:
        """Hear which share of the run is done, 0 to 1: called once per step, before :meth:`gradient`."""

    def gradient(
        self,
        x0: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        model: NoiseModel,
        mixing: GuidanceMixing,
        generator: torch.Generator,
    ) -> Tensor:
        """Return g [B, C, h, w].

        Args:
            x0: latents [B, C, h, w], without a gradient.
            t: diffusion times [B].
            conditioning: the texts and the pose of each image.
            model: the frozen noise prediction.
            mixing: combines the predictions under several texts.
            generator: the only source of random numbers.
        """
        raise NotImplementedError

    def learn(self, x0: Tensor, conditioning: Conditioning, generator: torch.Generator) -> None:
        """Train the score's own network, if it has one: called once per step, after :meth:`gradient`."""

    def state(self) -> dict[str, Any]:
        """Return what is learnt, for the checkpoint; empty where nothing is."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""

    def weight(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Return w(t) [B, 1, 1, 1]."""
        return weight(self.weighting, schedule, t)

    def clip(self, gradient: Tensor, progress: float) -> Tensor:
        """Sanitize the gradient and clamp it to ``grad_clip`` at this share of the run."""
        limit = None if self.grad_clip is None else linear_schedule(self.grad_clip, progress)
        return sanitize_gradient(gradient, limit)


def sanitize_gradient(gradient: Tensor, limit: float | None = None) -> Tensor:
    """Replace NaN by zero and, with a limit, clamp each element to +-limit; without one, replace infinity by zero.

    The clamp is that of https://arxiv.org/abs/2303.15413. Where no element is finite the gradient [B, C, h, w] stays as it
    is: the step is then skipped and counted, where zeros would hide a network that has overflowed.

    >>> sanitize_gradient(torch.tensor([float('nan'), 3.0, float('-inf')]), limit=2.0)
    tensor([ 0.,  2., -2.])
    """
    gradient = gradient.float()
    infinity = limit or 0.0
    finite = torch.nan_to_num(gradient, nan=0.0, posinf=infinity, neginf=-infinity)
    finite = torch.where(gradient.isfinite().any(), finite, gradient)
    return finite if limit is None else finite.clamp(-limit, limit)


def distillation_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """Return 0.5 |x0 - stopgrad(x0 - g)|^2 / B, a scalar whose derivative with respect to x0 is g / B.

    Args:
        x0: [B, C, h, w], float32 or better: small gradients would be rounded away in half precision.
        gradient: g [B, C, h, w].

    Raises:
        ValueError: for latents in half precision.

    >>> x0 = torch.zeros(2, 1, 1, 1, requires_grad=True)
    >>> distillation_loss(x0, torch.full((2, 1, 1, 1), 3.0)).backward()
    >>> x0.grad.flatten()
    tensor([1.5000, 1.5000])
    """
    if x0.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f'distillation_loss needs float32 latents, not {x0.dtype}: small gradients would be rounded away.'
        )
    target = (x0 - gradient).detach()
    return 0.5 * ((x0 - target) ** 2).sum() / x0.shape[0]
