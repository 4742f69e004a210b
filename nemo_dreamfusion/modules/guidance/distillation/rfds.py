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


"""RFDS, score distillation of a rectified flow: Yang et al., https://arxiv.org/abs/2406.03293."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing


class RectifiedFlowDistillation(Score):
    """g = w (v_guided - v), v = eps - x0 the velocity of the flow. Two rows of the network per image.

    At one x_t the network's x0 is (x_t - sigma eps) / a, so that v_guided - v = (eps_guided - eps) / a: SDS with the weight
    w / a. In this form it holds for a variance-preserving model too, whose velocity is a eps - sigma x0. The authors' code
    also multiplies by a random number of its own, whatever the time; it is left out.
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
        return self.compare(x0, noise, t, conditioning, model, mixing)

    def compare(
        self,
        x0: Tensor,
        noise: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        model: NoiseModel,
        mixing: GuidanceMixing,
    ) -> Tensor:
        """Return w (v_guided - v) [B, C, h, w] for given noise [B, C, h, w]."""
        guided = mixing.predict(model, model.schedule.add_noise(x0, noise, t), t, conditioning).guided
        a, _ = model.schedule.signal_and_noise(t)
        return self.weight(model.schedule, t) * (guided - noise) / a
