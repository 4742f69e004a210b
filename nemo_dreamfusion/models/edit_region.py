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

"""Where new words change an object: what the diffusion model says of it before the edit begins.

At the same noisy picture of the object, the noise that is predicted under the new sentence differs from that under the old
where the sentence changes the picture: DiffEdit (Couairon et al., https://arxiv.org/abs/2210.11427), and in three dimensions
Watch Your Steps (Mirzaei et al., https://arxiv.org/abs/2308.08947). Latents are coarse, and one look at them is noisy. So
the surface is divided into parts that are alike in colour and near each other, and the difference of a part is that of
least squares over all looks, in which a latent pixel adds up the parts that it shows. Looks are added with their sign:
noise cancels, a change of colour does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.modules.guidance.latent_maps import resize
from nemo_dreamfusion.parts.colors import linear_rgb_to_lab

LOOKS = 64  # pictures of the object, each under noise of its own
TIMES = (0.3, 0.8)  # shares of the diffusion's length over which their noise is spread
PARTS = 24
COLOR, NEAR = 20.0, 0.25  # a step of CIE L*a*b* and a way, in halves of the scene, that part two points alike
SOLID = 0.95  # opacity from which a pixel's colour and depth are the surface's alone: such points make the parts
SHOWN = 0.5  # opacity from which a pixel counts as showing a part
CHANGED = 0.5  # share of the clearest change from which a part changes
CLEAREST = 0.1  # share of the surface, of the parts that change most, that says how clear that is
_POINTS, _ROUNDS = 8192, 15  # of the division into parts


@dataclass(frozen=True)
class Looks:
    """V pictures of an object, albedo in [0, 1], and the difference that new words make to each."""

    colors: Tensor  # [V, H, H, 3]
    positions: Tensor  # [V, H, H, 3], of what is seen
    opacity: Tensor  # [V, H, H]
    differences: Tensor  # [V, C, h, h], of the predicted noise


@dataclass(frozen=True)
class SurfaceParts:
    """Parts of a surface, each all that is nearest to its centre in colour and place, and whether words change it."""

    centers: Tensor  # [K, 6]
    changes: Tensor  # [K] bool
    bound: float  # of the scene

    def may_change(self, positions: Tensor, albedo: Tensor) -> Tensor:
        """Return whether points of the surface lie in parts that change: [N, 3], [N, 3] -> [N] bool."""
        return self.changes[_nearest(_features(positions, albedo, self.bound), self.centers)]


def find_parts(looks: Looks, bound: float, generator: torch.Generator) -> SurfaceParts | None:
    """Divide the surface that is seen into parts, and say which of them the new words change.

    None where no pixel is opaque enough to show a surface. Looks are divided one after the other, for less memory.
    """
    opaque = (looks.opacity.flatten() > SOLID).nonzero()[:, 0]
    if not len(opaque):
        return None
    seen = opaque[torch.randint(len(opaque), (_POINTS,), generator=generator, device=opaque.device)]
    features = _features(looks.positions.flatten(0, 2)[seen], looks.colors.flatten(0, 2)[seen], bound)
    centers = divide(features, PARTS, generator)
    side = looks.differences.shape[-1]
    pictures = zip(looks.positions, looks.colors, looks.opacity, strict=True)
    areas = torch.cat([_areas(*picture, centers, bound, side) for picture in pictures])
    relevance = measure_relevance(areas, looks.differences)
    return SurfaceParts(centers, relevance >= CHANGED * _clearest(relevance, areas.sum((0, 2, 3))), bound)


def measure_relevance(areas: Tensor, differences: Tensor) -> Tensor:
    """Return the length of the difference that each part makes to the pixels that it fills: [K].

    Args:
        areas: share of each latent pixel that shows a part, [V, K, h, h]; the rest is background, a part of its own.
        differences: [V, C, h, h].

    >>> areas = torch.rand(4, 2, 3, 3) / 2
    >>> measure_relevance(areas, (areas * torch.tensor([5.0, 0.0])[:, None, None]).sum(1, keepdim=True)).round() + 0
    tensor([5., 0.])
    """
    rows = torch.cat([areas, 1 - areas.sum(1, keepdim=True)], 1).movedim(1, -1).flatten(0, 2).double()  # [P, K + 1]
    values = differences.movedim(1, -1).flatten(0, 2).double()  # [P, C]
    squares = rows.T @ rows
    ridge = 1e-5 * len(rows) * torch.eye(len(squares), dtype=rows.dtype, device=rows.device)  # of parts hardly seen
    return torch.linalg.solve(squares + ridge, rows.T @ values)[:-1].norm(dim=1).float()


def divide(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the centres of at most ``count`` clusters of points [N, D], by k-means++ and Lloyd's rounds: [K, D]."""
    centers = points[:1]
    for _ in range(count - 1):
        squares = torch.cdist(points, centers).amin(1).square()
        if not squares.any():
            break
        centers = torch.cat([centers, points[torch.multinomial(squares, 1, generator=generator)]])
    for _ in range(_ROUNDS):
        member = F.one_hot(_nearest(points, centers), len(centers)).to(points)
        size = member.sum(0)[:, None]
        centers = torch.where(size > 0, member.T @ points / size.clamp(min=1), centers)
    return centers


def _areas(positions: Tensor, colors: Tensor, opacity: Tensor, centers: Tensor, bound: float, side: int) -> Tensor:
    """Return the share of each pixel of a picture of ``side`` pixels that shows each part: [1, K, side, side]."""
    part = _nearest(_features(positions.flatten(0, 1), colors.flatten(0, 1), bound), centers).view(opacity.shape)
    shown = F.one_hot(part, len(centers)) * (opacity > SHOWN)[..., None]
    return resize(shown.permute(2, 0, 1)[None].float(), side)


def _clearest(relevance: Tensor, area: Tensor) -> Tensor:
    """Return the relevance that ``CLEAREST`` of the area has at least: one small part does not say how much is much."""
    order = relevance.argsort(descending=True)
    share = area[order].cumsum(0) / area.sum()
    return relevance[order][(share >= CLEAREST).int().argmax()]


def _features(positions: Tensor, albedo: Tensor, bound: float) -> Tensor:
    return torch.cat([linear_rgb_to_lab(albedo.float()) / COLOR, positions.float() / (NEAR * bound)], -1)


def _nearest(features: Tensor, centers: Tensor) -> Tensor:
    return torch.cdist(features, centers).argmin(1)
