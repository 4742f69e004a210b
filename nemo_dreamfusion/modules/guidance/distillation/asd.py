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


"""ASD, asynchronous score distillation (ScaleDreamer): Ma et al., https://arxiv.org/abs/2407.02040."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.parts.checks import check_range


class AsynchronousScoreDistillation(Score):
    """g = w (eps_guided(x_t) - eps_text(x_u)), u = t + d, with one noise for both.

    The frozen network at a time of more noise, which denoising passes earlier, stands for the learned network of VSD: its
    error is smaller there, as that of a finetuned one would be. d is uniform from 0 to shift (t - start T), whole steps.
    With shift = 0 it is (s - 1) times CSD. The paper's guidance scale is 7.5. Three rows of the network per image.

    Args:
        shift: largest d, as a share of t - start T, 0 to 1.
        start: the time, as a share of T, at and below which d is 0: the lowest time of the run.
        options: of :class:`Score`.
    """

    def __init__(self, *, shift: float = 0.1, start: float = 0.02, **options: Any) -> None:
        super().__init__(**options)
        self.shift = check_range('model.guidance.score.shift', shift, 0.0, 1.0)
        self.start = check_range('model.guidance.score.start', start, 0.0, 1.0)

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
        noise = random_normal(x0.shape, generator, x0.device)
        later = self.shifted(t, len(model.schedule), generator)
        guided = mixing.predict(model, model.schedule.add_noise(x0, noise, t), t, conditioning).guided
        (control,) = model(model.schedule.add_noise(x0, noise, later), later, [conditioning.text])
        return self.weight(model.schedule, t) * (guided - control)

    def shifted(self, t: Tensor, length: int, generator: torch.Generator) -> Tensor:
        """Return u [B] for times t [B] of a schedule of this length."""
        drawn = torch.rand(len(t) // self.views, generator=generator, device=generator.device)
        drawn = drawn.to(t.device).repeat_interleave(self.views)
        steps = drawn * self.shift * (t - round(self.start * length)).clamp(min=0)
        return (t + steps.long()).clamp(max=length - 1)
