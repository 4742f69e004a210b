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

"""Perp-Neg: views that are not wanted push away, without touching what is wanted (Armandpour et al., arXiv 2304.04968).

The texts "front view" and "side view" are the negatives; their weights depend on the azimuth and are never positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

PERP_NEG = ('threestudio', 'stable_dreamfusion')


def view_negative_weights(azimuth_deg: Tensor, style: str) -> Tensor:
    """Weights of the negative texts (front, side): [B] -> [B, 2], each <= 0.

    With r falling from 1 to 0 over each quarter turn (front to side, side to back), the published curves are

    * ``threestudio``: -(A exp(-B r) + C), continuous at the side but for 6e-4;
    * ``stable_dreamfusion``: -2 exp(-2 r) and -2 exp(-10 (1 - r)) in front, -2 and -exp(-10 r) behind, cut to 0 near the
      text that is wanted.
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


def perpendicular_negatives(main: Tensor, negatives: Tensor) -> Tensor:
    """Perp-Neg (arXiv 2304.04968): the part of each negative direction that is at right angles to the main one.

    main [B, C, h, w], negatives [B, K, C, h, w] -> [B, K, C, h, w]; per image, in float32 or better (a half-precision dot
    product of this length overflows).
    """
    flat = main.reshape(main.shape[0], 1, -1)
    others = negatives.reshape(*negatives.shape[:2], -1)
    share = (others * flat).sum(-1, keepdim=True) / (flat * flat).sum(-1, keepdim=True).clamp(min=1e-6)
    return (others - share * flat).view_as(negatives)
