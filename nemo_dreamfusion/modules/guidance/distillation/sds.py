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


"""SDS, score distillation sampling (DreamFusion): Poole et al., https://arxiv.org/abs/2209.14988."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing


class ScoreDistillationSampling(Score):
    """g = w (eps_guided - eps), eq. 3 of the paper. Two rows of the network per image."""

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
        return self.weight(model.schedule, t) * (mixing.predict(model, noisy, t, conditioning).guided - noise)
