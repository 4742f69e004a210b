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


"""SDI, score distillation via inversion: Lukoianov et al., https://arxiv.org/abs/2405.15891."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.distillation.ism import ddim_step
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.parts.checks import check_positive, check_range


class ScoreDistillationViaInversion(Score):
    """g = w (eps_guided(x_t) - k), x_t = a x0 + sigma k: SDS with the noise that the render itself would have come from.

    k is the noise in x0 after DDIM inversion under the same text to a time u a little beyond t, plus eta sigma times
    normal noise: k = (x_u - a_u x0) / sigma_u. With w = sigma / a (``residual``, eq. 10 of the paper) g is x0 minus the
    network's estimate of x0. The paper's time falls linearly from 1 to 0.2 over the run, its guidance scale is 7.5.
    2 (n + 1) rows of the network per image, n = max(1, int(inversion_steps t / T)), and n + 1 times as many further ones
    as Perp-Neg has negatives.

    Args:
        inversion_scale: guidance scale of the inversion: the paper's -7.5 undoes what guidance at 7.5 adds.
        inversion_steps: steps that an inversion over all T times would take.
        overshoot: u - t is uniform up to this share of T.
        eta: share of sigma of the random noise added to k, which keeps a slip of the inversion from being repeated.
        options: of :class:`Score`.
    """

    one_time_per_batch = True

    def __init__(
        self,
        *,
        weighting: str = 'residual',
        inversion_scale: float = -7.5,
        inversion_steps: int = 10,
        overshoot: float = 1 / 30,
        eta: float = 0.3,
        **options: Any,
    ) -> None:
        super().__init__(weighting=weighting, **options)
        name = 'model.guidance.score.{}'.format
        self.inversion_scale = check_range(name('inversion_scale'), inversion_scale, -1000.0, 1000.0)
        self.inversion_steps = check_positive(name('inversion_steps'), inversion_steps, integer=True)
        self.overshoot = check_range(name('overshoot'), overshoot, 0.0, 1.0)
        self.eta = check_range(name('eta'), eta, 0.0, 1.0)

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
        until = self._end_of_inversion(int(t[0]), len(model.schedule), generator)
        inverted = self.invert(x0, int(t[0]), until, conditioning, model, mixing)
        a, sigma = model.schedule.signal_and_noise(torch.full_like(t, until))
        noise = (inverted - a * x0) / sigma
        _, sigma = model.schedule.signal_and_noise(t)
        noise = noise + self.eta * sigma * random_normal(x0.shape, generator, x0.device)
        noisy = model.schedule.add_noise(x0, noise, t)
        return self.weight(model.schedule, t) * (mixing.predict(model, noisy, t, conditioning).guided - noise)

    def _end_of_inversion(self, t: int, length: int, generator: torch.Generator) -> int:
        drawn = torch.rand((), generator=generator, device=generator.device).item()
        return min(t + round(drawn * self.overshoot * length), length - 1)

    def invert(
        self, x0: Tensor, t: int, until: int, conditioning: Conditioning, model: NoiseModel, mixing: GuidanceMixing
    ) -> Tensor:
        """Add predicted noise to clean latents [B, C, h, w] in even steps, as many as belong to ``t``; return x_until."""
        steps = max(1, self.inversion_steps * t // len(model.schedule))
        nodes = [round(until * i / steps) for i in range(steps + 1)]
        x = x0
        for i, (here, there) in enumerate(zip(nodes, nodes[1:])):
            now, then = (torch.full((len(x0),), time, device=x0.device) for time in (here, there))
            predicted = mixing.predict(model, x, now, conditioning, scale=self.inversion_scale).guided
            x = ddim_step(model.schedule, x, None if i == 0 else now, then, predicted)
        return x
