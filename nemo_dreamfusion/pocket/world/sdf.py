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

"""Solid primitives with signed distances, and scenes made of them.

World axes: right-handed, y up, the front of an object faces +z, everything inside the unit ball.
Shapes: P points, N primitives, K of them of one kind. Distances are exact or lower bounds, so that sphere tracing never
steps through a surface (https://iquilezles.org/articles/distfunctions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Vector = tuple[float, float, float]

# Rows of the world → local rotation whose local +y is the named world axis.
_AXES: dict[str, tuple[Vector, Vector, Vector]] = {
    'y': ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    '-y': ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    'x': ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    '-x': ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    'z': ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    '-z': ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
}


@dataclass(frozen=True)
class Primitive:
    """One solid. `size` means, by kind (all lengths in world units, along the local axes):

    ellipsoid, dome (its upper half)   radii (x, y, z)
    box                                half extents (x, y, z)
    cylinder, ruffle (a wavy disc)     (radius, half height, amplitude of the wave: ruffle only)
    cone                               (radius at the bottom, half height, radius at the top)
    torus                              (ring radius, tube radius, –)
    capsule                            (radius, half length of the straight part, –)
    pyramid                            (half base, half height, –)

    `axis` is the world axis along which the local +y points; `rounding` rounds the edges of boxes and cylinders; `part`
    is the word of a prompt that colours the solid; `stretching` are the factors of :meth:`stretch` along the world axes.
    """

    kind: str
    center: Vector
    size: Vector
    color: Vector  # linear RGB in [0, 1]
    axis: str = 'y'
    rounding: float = 0.0
    part: str = ''
    stretching: Vector = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.kind not in _DISTANCES:
            raise ValueError(f'unknown primitive {self.kind!r}; choose one of {sorted(_DISTANCES)}')
        if self.axis not in _AXES:
            raise ValueError(f'unknown axis {self.axis!r}; choose one of {sorted(_AXES)}')

    def scale(self, factor: float) -> Primitive:
        """Scale the solid about the origin."""
        (x, y, z), (a, b, c) = self.center, self.size
        center, size = (factor * x, factor * y, factor * z), (factor * a, factor * b, factor * c)
        return replace(self, center=center, size=size, rounding=factor * self.rounding)

    def stretch(self, factors: Vector) -> Primitive:
        """Stretch space, and the solid in it, along the world axes about the origin."""
        (x, y, z), (a, b, c), (u, v, w) = self.center, self.stretching, factors
        return replace(self, center=(x * u, y * v, z * w), stretching=(a * u, b * v, c * w))

    def translate(self, offset: Vector) -> Primitive:
        """Move the solid by an offset in world units."""
        (x, y, z), (dx, dy, dz) = self.center, offset
        return replace(self, center=(x + dx, y + dy, z + dz))


class Scene:
    """A union of coloured primitives, cut off by the unit ball.

    Args:
        primitives: the solids, at least one.
    """

    def __init__(self, primitives: Sequence[Primitive]) -> None:
        if not primitives:
            raise ValueError('a scene needs at least one primitive')
        self.primitives = tuple(sorted(primitives, key=lambda p: p.kind))
        self.colors = torch.tensor([p.color for p in self.primitives], dtype=torch.float32)  # [N, 3]
        self._groups = [self._group(kind) for kind in dict.fromkeys(p.kind for p in self.primitives)]

    def _group(self, kind: str) -> tuple[Callable[..., Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
        members = [p for p in self.primitives if p.kind == kind]
        rotation = torch.tensor([_AXES[p.axis] for p in members], dtype=torch.float32)  # [K, 3, 3]
        stretching = torch.tensor([p.stretching for p in members])  # [K, 3]
        rotation = rotation / stretching[:, None]
        center = torch.tensor([p.center for p in members], dtype=torch.float32)  # [K, 3]
        offset = -(rotation @ center[..., None])  # [K, 3, 1]
        size = torch.tensor([p.size for p in members], dtype=torch.float32)[..., None]  # [K, 3, 1]
        rounding = torch.tensor([[p.rounding] for p in members])  # [K, 1]
        return _DISTANCES[kind], rotation, offset, size, rounding, stretching.amin(1, keepdim=True)

    def distances(self, points: Tensor) -> Tensor:
        """Return the signed distance of each point to each primitive: [P, 3] → [N, P] (negative inside)."""
        columns = points.T.contiguous()  # [3, P]
        rows = []
        for distance, rotation, offset, size, rounding, least in self._groups:
            local = torch.baddbmm(offset, rotation, columns.expand(len(rotation), 3, -1))  # [K, 3, P]
            rows.append(distance(local.unbind(1), size.unbind(1), rounding) * least)  # a lower bound where stretched
        return torch.cat(rows)

    def signed_distance(self, points: Tensor) -> Tensor:
        """Return the signed distance to the surface of the scene: [P, 3] → [P]."""
        return torch.maximum(self.distances(points).amin(0), points.norm(dim=-1) - 1)

    def albedo(self, points: Tensor) -> Tensor:
        """Return the colour of the nearest primitive: [P, 3] → [P, 3]."""
        return self.colors[self.distances(points).argmin(0)]

    def normals(self, points: Tensor, step: float = 1e-3) -> Tensor:
        """Return outward unit normals, from four differences on a tetrahedron: [P, 3] → [P, 3]."""
        corners = torch.tensor([[1.0, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
        gradient = sum(c * self.signed_distance(points + step * c)[:, None] for c in corners)
        return torch.nn.functional.normalize(gradient, dim=-1)


def _ellipsoid(p: Sequence[Tensor], s: Sequence[Tensor], _: Tensor) -> Tensor:
    (x, y, z), (a, b, c) = p, s
    u, v, w = x / a, y / b, z / c
    k0 = (u * u + v * v + w * w).sqrt_()
    u, v, w = u / a, v / b, w / c
    k1 = (u * u + v * v + w * w).sqrt_().clamp_min_(1e-9)
    return torch.where(a.eq(b) & b.eq(c), (k0 - 1) * a, k0 * (k0 - 1) / k1)  # the second is a first-order estimate


def _dome(p: Sequence[Tensor], s: Sequence[Tensor], r: Tensor) -> Tensor:
    return torch.maximum(_ellipsoid(p, s, r), -p[1])


def _box_2d(dx: Tensor, dy: Tensor) -> Tensor:
    """Return the distance to a rectangle from the signed distances to its sides."""
    outside = (dx.clamp_min(0).square() + dy.clamp_min(0).square()).sqrt()
    return outside + torch.maximum(dx, dy).clamp_max_(0)


def _box(p: Sequence[Tensor], s: Sequence[Tensor], r: Tensor) -> Tensor:
    dx, dy, dz = (q.abs() - (h - r) for q, h in zip(p, s))
    outside = (dx.clamp_min(0).square() + dy.clamp_min(0).square() + dz.clamp_min(0).square()).sqrt()
    return outside + torch.maximum(dx, torch.maximum(dy, dz)).clamp_max_(0) - r


def _cylinder(p: Sequence[Tensor], s: Sequence[Tensor], r: Tensor) -> Tensor:
    radial = (p[0].square() + p[2].square()).sqrt_()
    return _box_2d(radial - (s[0] - r), p[1].abs() - (s[1] - r)) - r


def _ruffle(p: Sequence[Tensor], s: Sequence[Tensor], r: Tensor) -> Tensor:
    x, y, z = p
    radial = (x.square() + z.square()).sqrt_()
    wave = s[2] * torch.sin(9 * torch.atan2(x, z)) * (radial / s[0]).clamp_max(1.2).square()
    distance = _box_2d(radial - (s[0] - r), (y - wave).abs() - (s[1] - r)) - r
    return 0.7 * distance  # the wave tilts the surface: a lower bound


def _cone(p: Sequence[Tensor], s: Sequence[Tensor], _: Tensor) -> Tensor:
    bottom, half, top = s
    q, y = (p[0].square() + p[2].square()).sqrt_(), p[1]
    cap_x = q - torch.minimum(q, torch.where(y < 0, bottom, top))
    cap_y = y.abs() - half
    k1x, k1y = top, half
    k2x, k2y = top - bottom, 2 * half
    t = (((k1x - q) * k2x + (k1y - y) * k2y) / (k2x * k2x + k2y * k2y)).clamp_(0, 1)
    side_x, side_y = q - k1x + k2x * t, y - k1y + k2y * t
    squared = torch.minimum(cap_x.square() + cap_y.square(), side_x.square() + side_y.square())
    return torch.where((side_x < 0) & (cap_y < 0), -squared.sqrt(), squared.sqrt())


def _torus(p: Sequence[Tensor], s: Sequence[Tensor], _: Tensor) -> Tensor:
    ring = (p[0].square() + p[2].square()).sqrt_() - s[0]
    return (ring.square() + p[1].square()).sqrt_() - s[1]


def _capsule(p: Sequence[Tensor], s: Sequence[Tensor], _: Tensor) -> Tensor:
    y = p[1] - torch.minimum(torch.maximum(p[1], -s[1]), s[1])
    return (p[0].square() + y.square() + p[2].square()).sqrt_() - s[0]


def _pyramid(p: Sequence[Tensor], s: Sequence[Tensor], _: Tensor) -> Tensor:
    base, half = s[0], s[1]
    slope = (4 * half * half + base * base).sqrt()
    side = (2 * half * torch.maximum(p[0].abs(), p[2].abs()) + base * (p[1] - half)) / slope
    return torch.maximum(side, -p[1] - half)


_DISTANCES: dict[str, Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Tensor]] = {
    'ellipsoid': _ellipsoid,
    'dome': _dome,
    'box': _box,
    'cylinder': _cylinder,
    'ruffle': _ruffle,
    'cone': _cone,
    'torus': _torus,
    'capsule': _capsule,
    'pyramid': _pyramid,
}
