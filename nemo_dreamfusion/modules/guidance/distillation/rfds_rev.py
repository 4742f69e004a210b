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


"""RFDS-Rev, RFDS with noise that suits the render: Yang et al., https://arxiv.org/abs/2406.03293."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.rfds import RectifiedFlowDistillation
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing


class RevisedRectifiedFlowDistillation(RectifiedFlowDistillation):
    """RFDS at x0 and eps', the noise after one step of the paper's inversion (iRFDS) under the text alone.

    eps' = eps + (1 - sigma) (v_text(x_t) + x0 - eps). Since a = 1 - sigma and v_text - (eps - x0) = (eps_text - eps) / a,
    eps' is the noise eps_text that the network sees in x_t, and so it is computed, for any model. Three rows of the network
    per image.
    """

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
        (seen,) = model(model.schedule.add_noise(x0, noise, t), t, [conditioning.text])
        return self.compare(x0, seen, t, conditioning, model, mixing)
