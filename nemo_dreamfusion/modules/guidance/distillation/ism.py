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


"""ISM, interval score matching (LucidDreamer): Liang et al., https://arxiv.org/abs/2311.11284."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.parts.checks import check_range


class IntervalScoreMatching(Score):
    """g = w (eps_guided(x_t) - eps_empty(x_s)), s = t - interval.

    x_s is x0 after DDIM inversion under the empty text, x_t one more step from x_s with the noise predicted there. A
    negative prompt acts on the guidance at x_t alone. No random numbers but t. max(1, ceil(s / inversion_step)) + 3 rows of
    the network per image.

    Args:
        interval: t - s, in diffusion steps, 1 to 999.
        inversion_step: largest step of the inversion, in diffusion steps, 1 to 999.
        options: of :class:`Score`.
    """

    one_time_per_batch = True

    def __init__(self, *, interval: int = 50, inversion_step: int = 200, **options: Any) -> None:
        super().__init__(**options)
        self.interval = check_range('model.guidance.score.interval', interval, 1, 999, integer=True)
        self.inversion_step = check_range('model.guidance.score.inversion_step', inversion_step, 1, 999, integer=True)

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
        s = (t - self.interval).clamp(min=0)
        earlier = self.invert(x0, int(s[0]), conditioning.empty, model)
        (inverted,) = model(earlier, s, [conditioning.empty])
        noisy = ddim_step(model.schedule, earlier, s, t, inverted)
        return self.weight(model.schedule, t) * (mixing.predict(model, noisy, t, conditioning).guided - inverted)

    def invert(self, x0: Tensor, until: int, context: Tensor, model: NoiseModel) -> Tensor:
        """Add predicted noise to clean latents up to the time ``until`` (DDIM inversion).

        Args:
            x0: [B, C, h, w].
            until: the last time.
            context: [B, L, D], the text under which the noise is predicted, at the start of each step.
            model: the noise prediction.

        Returns:
            x at the time ``until`` [B, C, h, w].
        """
        nodes = [0, *range(self.inversion_step, until, self.inversion_step), until]
        x = x0
        for i, (here, there) in enumerate(zip(nodes, nodes[1:])):
            now, then = (torch.full((len(x0),), time, device=x0.device) for time in (here, there))
            (predicted,) = model(x, now, [context])
            x = ddim_step(model.schedule, x, None if i == 0 else now, then, predicted)
        return x


def ddim_step(schedule: NoiseSchedule, x: Tensor, now: Tensor | None, then: Tensor, predicted: Tensor) -> Tensor:
    """Move x from time ``now`` [B] (None: clean latents) to ``then`` [B] along the predicted noise.

    x0 = (x - sigma_now eps) / a_now, and x = a_then x0 + sigma_then eps (DDIM, https://arxiv.org/abs/2010.02502, eq. 12
    without its random part).
    """
    clean = x
    if now is not None:
        a, sigma = schedule.signal_and_noise(now)
        clean = (x - sigma * predicted) / a
    a, sigma = schedule.signal_and_noise(then)
    return a * clean + sigma * predicted
