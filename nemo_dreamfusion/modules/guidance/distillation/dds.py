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

"""DDS, delta denoising score, which edits: Hertz et al., https://arxiv.org/abs/2304.07090."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, EditSource, GuidanceMixing


class DeltaDenoisingScore(Score):
    """g = w (eps_guided(x_t, text) - eps_guided(x_t source, text of the source)), with one time and one noise for both.

    What is wrong with SDS is much the same for both, so that it cancels: where neither object nor text has changed, g is 0.
    The paper's w is 1 and its guidance scale 7.5. Four rows of the network per image.
    """

    compares_source = True

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
        return self.weight(model.schedule, t) * difference


def predict_difference(
    x0: Tensor,
    t: Tensor,
    conditioning: Conditioning,
    *,
    model: NoiseModel,
    mixing: GuidanceMixing,
    generator: torch.Generator,
) -> Tensor:
    """Return the guided noise of an object less that of its source [B, C, h, w], at the same times under the same noise."""
    source = source_of(conditioning)
    noise = random_normal(x0.shape, generator, x0.device)
    predicted, before = (
        mixing.predict(model, model.schedule.add_noise(latents, noise, t), t, texts).guided
        for latents, texts in ((x0, conditioning), (source.latents, source.conditioning))
    )
    return predicted - before


def source_of(conditioning: Conditioning) -> EditSource:
    """Return the object before the edit.

    Raises:
        ValueError: where the guidance was not told of one.
    """
    if conditioning.source is None:
        raise ValueError('This score edits: give Guidance.loss(source=...) and prompts with a source.')
    return conditioning.source
