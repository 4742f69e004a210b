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

"""How predictions under several texts become one: classifier-free guidance, Perp-Neg, rescale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, classifier_free_guidance
from nemo_dreamfusion.modules.guidance.perp_neg import perpendicular_negatives
from nemo_dreamfusion.parts.checks import check_positive, check_range


@dataclass(frozen=True)
class Conditioning:
    """The encoded texts of one evaluation, one row per image. L tokens, D channels, K further negatives."""

    text: Tensor  # [B, L, D]
    unconditional: Tensor  # [B, L, D]
    negatives: Tensor | None = None  # [B, K, L, D], for Perp-Neg
    negative_weights: Tensor | None = None  # [B, K], <= 0
    empty: Tensor | None = None  # [B, L, D], the empty text
    plain: Tensor | None = None  # [B, L, D], the prompt without a view
    pose: Tensor | None = None  # [B, 16], camera-to-world


@dataclass(frozen=True)
class Guided:
    """Predicted noise [B, C, h, w], float32: guided, and under the text and the unconditional text alone."""

    guided: Tensor
    text: Tensor
    unconditional: Tensor


class Guider:
    """Runs the network once on all texts and combines what it says.

    Args:
        scale: s of unconditional + s (text - unconditional); 1 is plain text.
        rescale: phi of arXiv 2305.08891, 0 leaves the standard deviation as guidance made it, 1 gives it that of the
            prediction under the text alone. It acts on the network's own output (v stays v), per image.
    """

    def __init__(self, *, scale: float, rescale: float = 0.0) -> None:
        self.scale = check_positive('model.guidance.guidance_scale', scale)
        self.rescale = check_range('model.guidance.guidance_rescale', rescale, 0.0, 1.0)

    def __call__(self, model: NoiseModel, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Guided:
        """Predictions at x_t = ``noisy`` [B, C, h, w], t [B]."""
        contexts = [conditioning.text, conditioning.unconditional]
        if conditioning.negatives is not None:
            contexts += list(conditioning.negatives.unbind(1))
        text, unconditional, *negatives = model.outputs(noisy, t, contexts)
        if negatives:
            pushed = perpendicular_negatives(text - unconditional, torch.stack(negatives, 1) - unconditional[:, None])
            weights = conditioning.negative_weights.to(pushed)[:, :, None, None, None]
            direction = text - unconditional + (weights * pushed).sum(1)
            guided = unconditional + self.scale * direction
        else:
            guided = classifier_free_guidance(text, unconditional, self.scale)
        if self.rescale > 0:
            guided = rescale_guidance(guided, text, self.rescale)
        return Guided(*(model.schedule.epsilon(output, noisy, t) for output in (guided, text, unconditional)))


def rescale_guidance(guided: Tensor, text: Tensor, phi: float) -> Tensor:
    """phi guided std(text) / std(guided) + (1 - phi) guided, standard deviations per image over C, h, w."""
    dims = tuple(range(1, guided.ndim))
    ratio = text.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True).clamp(min=1e-12)
    return guided * (phi * ratio + 1 - phi)
