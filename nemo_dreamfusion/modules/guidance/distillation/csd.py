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


"""CSD, classifier score distillation: Yu et al., https://arxiv.org/abs/2310.19415."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.parts.checks import refuse


class ClassifierScoreDistillation(Score):
    """g = w (eps_guided - eps_unconditional), the classifier's part of SDS alone. Two rows of the network per image.

    The guidance scale is a pure factor; the noise only chooses x_t. The score has no stationary point of its own where text
    and unconditional density are equally wide, so it needs the regularisers and an annealed time.

    Of the paper's w1 eps_text + (w2 - w1) eps_empty - w2 eps_negative it is w2 = 0 without a negative prompt and w2 = w1
    with one; the paper's schedule of w2 between them is not offered.
    """

    def check_mixing(self, mixing: GuidanceMixing) -> None:
        """Raise ValueError for a rescale: it would leave a part of the unconditional prediction in the difference."""
        if mixing.guidance_rescale > 0:
            allowed = (
                "0 with model/guidance/score=csd, which is the classifier's difference and has no scale to correct"
            )
            advice = 'Set model.guidance.mixing.guidance_rescale=0.'
            refuse('model.guidance.mixing.guidance_rescale', mixing.guidance_rescale, allowed, advice)

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
        noisy = model.schedule.add_noise(x0, noise, t)
        found = mixing.predict(model, noisy, t, conditioning)
        return self.weight(model.schedule, t) * (found.guided - found.unconditional)
