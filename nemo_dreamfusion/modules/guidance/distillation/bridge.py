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


"""SDS-Bridge: McAllister et al., Rethinking score distillation as a bridge, https://arxiv.org/abs/2406.09417."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.parts.checks import check_range, refuse

FAULTS = 'oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed'


class BridgeScore(Score):
    """SDS until ``start`` of the run, then g = w s (eps_text - eps_faulty): from what the render is to what it shall be.

    The faulty text is each view's own text and the words for the faults of a render by SDS, which so describes the renders
    better than the empty text. s is the guidance scale; the authors take 100 in both stages, and switch at 20,000 of 25,000
    steps. Neither the negative prompt nor Perp-Neg acts on the second stage. Two rows of the network per image.

    Args:
        start: the share of the run from which the second stage is on, 0 to 1.
        fault_words: what is added to the texts, after a comma.
        options: of :class:`Score`.
    """

    def __init__(self, *, start: float = 0.8, fault_words: str = FAULTS, **options: Any) -> None:
        super().__init__(**options)
        self.start = check_range('model.guidance.score.start', start, 0.0, 1.0)
        if not isinstance(fault_words, str) or not fault_words.strip():
            refuse('model.guidance.score.fault_words', fault_words, 'words, as blurry, noisy')
        self.fault_words = fault_words.strip()
        self.late = self.start <= 0

    def check_mixing(self, mixing: GuidanceMixing) -> None:
        """Raise ValueError for a rescale: it would leave a part of the faulty text's prediction in the difference."""
        if mixing.guidance_rescale > 0:
            allowed = (
                '0 with model/guidance/score=bridge, whose second stage is a difference and has no scale to correct'
            )
            advice = 'Set model.guidance.mixing.guidance_rescale=0.'
            refuse('model.guidance.mixing.guidance_rescale', mixing.guidance_rescale, allowed, advice)

    def start_step(self, progress: float) -> None:
        self.late = progress >= self.start

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
        if not self.late:
            return self.weight(model.schedule, t) * (mixing.predict(model, noisy, t, conditioning).guided - noise)
        assert conditioning.faulty is not None, 'the guidance encodes the fault_words of its score'
        bridge = replace(conditioning, unconditional=conditioning.faulty, negatives=None, negative_weights=None)
        found = mixing.predict(model, noisy, t, bridge)
        return self.weight(model.schedule, t) * (found.guided - found.unconditional)
