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

"""PDS, posterior distillation sampling, which edits: Koo et al., https://arxiv.org/abs/2311.13831."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.distillation.dds import predict_difference, source_of
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.parts.checks import check_range


class PosteriorDistillationSampling(Score):
    """g = w (z(x0, text) - z(source, text of the source)), z = (x_s - mu) / d: the noise of one step of DDPM from t to s.

    With abar the share of signal in the variance (a^2 of a variance-preserving model), alpha = abar_t / abar_(t-1) and
    beta = 1 - alpha, mu = c0 x0_hat + c1 x_t, where c0 = sqrt(abar_s) beta / (1 - abar_t),
    c1 = sqrt(alpha) (1 - abar_s) / (1 - abar_t), and d^2 = beta (1 - abar_s) / (1 - abar_t). With the same noises for both
    objects they cancel in z, so that g = w (psi (x0 - source) + chi (eps - eps_source)), psi = (sqrt(abar_s) - c0 -
    c1 sqrt(abar_t)) / d and chi = c0 sqrt(1 - abar_t) / (sqrt(abar_t) d).

    The term in psi pulls the object back to its source. It is 0 for s = t - 1, of which mu is the posterior's mean, and PDS
    then is DDS by another weight. The authors' code takes s = t - 2, with alpha of a single step, w = 1 and a guidance scale
    of 100. Four rows of the network per image.

    Args:
        stride: t - s.
        options: of :class:`Score`.
    """

    compares_source = True

    def __init__(self, *, stride: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.stride = check_range('model.guidance.score.stride', stride, 1, 100, integer=True)

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
        difference = predict_difference(x0, t, conditioning, model=model, mixing=mixing, generator=generator)
        psi, chi = self.coefficients(model.schedule, t)
        moved = x0 - source_of(conditioning).latents
        return self.weight(model.schedule, t) * (psi * moved + chi * difference)

    def coefficients(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return psi and chi at times t [B], each [B, 1, 1, 1]; the step before the first time is that time itself."""
        signal = schedule.a**2 / (schedule.a**2 + schedule.sigma**2)  # abar [T]
        now, before, earlier = (signal[(t - back).clamp(min=0)].view(-1, 1, 1, 1) for back in (0, 1, self.stride))
        alpha = now / before
        beta = 1 - alpha
        c0 = earlier.sqrt() * beta / (1 - now)
        c1 = alpha.sqrt() * (1 - earlier) / (1 - now)
        deviation = (beta * (1 - earlier) / (1 - now)).sqrt().clamp(min=1e-6)
        psi = (earlier.sqrt() - c0 - c1 * now.sqrt()) / deviation
        return psi, c0 * ((1 - now) / now).sqrt() / deviation
