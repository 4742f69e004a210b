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

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel
from nemo_dreamfusion.modules.guidance.timesteps import check_progress_schedule
from nemo_dreamfusion.parts.checks import check_choice, check_positive, check_range
from nemo_dreamfusion.parts.schedules import Schedule, linear_schedule

PERP_NEG = ('threestudio', 'stable_dreamfusion')


@dataclass(frozen=True)
class Conditioning:
    """What a prediction may depend on: the encoded texts and the pose of each image.

    B images, L tokens, D channels, K further negatives.
    """

    text: Tensor  # [B, L, D]
    unconditional: Tensor  # [B, L, D], the negative prompt or the empty text
    empty: Tensor  # [B, L, D], the empty text
    plain: Tensor  # [B, L, D], the prompt without a view
    pose: Tensor  # [B, 16], camera-to-world
    negatives: Tensor | None = None  # [B, K, L, D], for Perp-Neg
    negative_weights: Tensor | None = None  # [B, K], <= 0; given where ``negatives`` are
    faulty: Tensor | None = None  # [B, L, D], ``text`` with words for its faults; given where the score has such words
    source: EditSource | None = None  # given where the score compares an edit with what was there before


@dataclass(frozen=True)
class EditSource:
    """The object before an edit, seen by the same cameras."""

    latents: Tensor  # [B, C, h, w]
    conditioning: Conditioning  # its texts


@dataclass(frozen=True)
class GuidedPrediction:
    """Predicted noise [B, C, h, w], float32: guided, and under the text and the unconditional text alone."""

    guided: Tensor
    text: Tensor
    unconditional: Tensor


@dataclass(frozen=True)
class GuidanceMixing:
    """The node ``model.guidance.mixing``: how the predictions are combined.

    Attributes:
        guidance_scale: s of eps_unconditional + s (eps_text - eps_unconditional); 1 is plain text. DreamFusion's
            omega = 100 is s = 101. A number, or [start, from, to, end] with start and end as shares of the run.
        guidance_rescale: phi of https://arxiv.org/abs/2305.08891, 0 to 1; 0 leaves the standard deviation as guidance made
            it, 1 gives it that of the prediction under the text alone.
        perp_neg: null, or whose curve weighs the views' negatives: ``threestudio`` or ``stable_dreamfusion``.
    """

    guidance_scale: Schedule = 100.0
    guidance_rescale: float = 0.0
    perp_neg: str | None = None

    def __post_init__(self) -> None:
        name = 'model.guidance.mixing.guidance_scale'
        if isinstance(self.guidance_scale, (int, float)):
            check_positive(name, self.guidance_scale)
        else:
            check_progress_schedule(name, self.guidance_scale, 1e-3, 1e4)
        check_range('model.guidance.mixing.guidance_rescale', self.guidance_rescale, 0.0, 1.0)
        check_choice('model.guidance.mixing.perp_neg', self.perp_neg, (None, *PERP_NEG))

    def at(self, progress: float) -> GuidanceMixing:
        """Return the mixing at this share of the run, 0 to 1: ``guidance_scale`` is a number.

        >>> GuidanceMixing(guidance_scale=[0.5, 7.5, 2.5, 1.0]).at(0.75).guidance_scale
        5.0
        """
        if isinstance(self.guidance_scale, (int, float)):
            return self
        return replace(self, guidance_scale=linear_schedule(self.guidance_scale, progress))

    def predict(
        self,
        model: NoiseModel,
        noisy: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        scale: float | None = None,
    ) -> GuidedPrediction:
        """Run the network once on all texts at x_t = ``noisy`` [B, C, h, w], t [B], and combine its outputs.

        The outputs are mixed and rescaled before they are converted to noise: a predicted v stays a v until then. ``scale``
        takes the place of ``guidance_scale``; it may be negative, as in an inversion.
        """
        scale = cast(float, self.guidance_scale) if scale is None else scale  # a number: see ``at``
        contexts = [conditioning.text, conditioning.unconditional]
        if conditioning.negatives is not None:
            contexts += list(conditioning.negatives.unbind(1))
        text, unconditional, *negatives = model.outputs(noisy, t, contexts)
        if conditioning.negative_weights is not None:
            pushed = perpendicular_negatives(text - unconditional, torch.stack(negatives, 1) - unconditional[:, None])
            weights = conditioning.negative_weights.to(pushed)[:, :, None, None, None]
            direction = text - unconditional + (weights * pushed).sum(1)
            guided = unconditional + scale * direction
        else:
            guided = classifier_free_guidance(text, unconditional, scale)
        if self.guidance_rescale > 0:
            guided = rescale_guidance(guided, text, self.guidance_rescale)
        epsilon = model.schedule.epsilon
        return GuidedPrediction(epsilon(guided, noisy, t), epsilon(text, noisy, t), epsilon(unconditional, noisy, t))


def classifier_free_guidance(text: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Return unconditional + scale (text - unconditional), [B, C, h, w] all (https://arxiv.org/abs/2207.12598).

    Papers that write 1 + w mean scale = 1 + w.

    >>> classifier_free_guidance(torch.tensor(3.0), torch.tensor(1.0), 7.5)
    tensor(16.)
    """
    return unconditional + scale * (text - unconditional)


def rescale_guidance(guided: Tensor, text: Tensor, phi: float) -> Tensor:
    """Return phi guided std(text) / std(guided) + (1 - phi) guided (https://arxiv.org/abs/2305.08891, section 3.4).

    Standard deviations are per image over C, h, w.

    >>> text = torch.randn(2, 4, 8, 8)
    >>> torch.allclose(rescale_guidance(5 * text, text, 1.0), text, atol=1e-5)
    True
    """
    dims = tuple(range(1, guided.ndim))
    ratio = text.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True).clamp(min=1e-12)
    return guided * (phi * ratio + 1 - phi)


def perpendicular_negatives(main: Tensor, negatives: Tensor) -> Tensor:
    """Return the part of each negative direction that is at right angles to the main one (Perp-Neg).

    Armandpour et al., https://arxiv.org/abs/2304.04968.

    Args:
        main: [B, C, h, w], in float32 or better: a half-precision dot product of this length overflows.
        negatives: [B, K, C, h, w].

    Returns:
        [B, K, C, h, w].

    >>> main, negative = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.6, 0.8]).view(1, 1, 1, 1, 2)
    >>> perpendicular_negatives(main, negative).flatten()
    tensor([0.0000, 0.8000])
    """
    flat = main.reshape(main.shape[0], 1, -1)
    others = negatives.reshape(*negatives.shape[:2], -1)
    share = (others * flat).sum(-1, keepdim=True) / (flat * flat).sum(-1, keepdim=True).clamp(min=1e-6)
    return (others - share * flat).view_as(negatives)


def view_negative_weights(azimuth_deg: Tensor, style: str) -> Tensor:
    """Return the weights of the negative texts "front view" and "side view": [B] -> [B, 2], each <= 0.

    With r falling from 1 to 0 over each quarter turn (front to side, side to back), the published curves are

    * ``threestudio``: -(A exp(-B r) + C), continuous at the side but for 6e-4;
    * ``stable_dreamfusion``: -2 exp(-2 r) and -2 exp(-10 (1 - r)) in front, -2 and -exp(-10 r) behind, cut to 0 near the
      text that is wanted.

    >>> view_negative_weights(torch.tensor([180.0]), 'stable_dreamfusion')
    tensor([[-2., -1.]])
    """
    around = ((azimuth_deg.float() + 180.0) % 360.0 - 180.0).abs()
    before = around <= 90.0
    r = torch.where(before, 1 - around / 90.0, 2 - around / 90.0)
    if style == 'threestudio':
        front = torch.where(before, _falling(r, 4, 0.5, -2.426), _falling(r, 1, 0.5, 0.967))
        side = torch.where(before, _falling(1 - r, 4, 0.5, -2.426), _falling(r, 1, 0.5, -0.606))
    else:
        front = torch.where(before, (-2 * torch.exp(-2 * r)).masked_fill(r > 0.8, 0.0), torch.full_like(r, -2.0))
        ahead = (-2 * torch.exp(-10 * (1 - r))).masked_fill(r < 0.2, 0.0)
        side = torch.where(before, ahead, (-torch.exp(-10 * r)).masked_fill(r > 0.8, 0.0))
    return torch.stack([front, side], -1)


def _falling(r: Tensor, a: float, b: float, c: float) -> Tensor:
    return -(a * torch.exp(-b * r) + c)
