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
"""Meshes with known shapes, and a camera, for the tests of what draws and fits meshes."""

import math

import numpy as np
import torch
from torch import Tensor


def sphere(n_faces: int, bumps: float = 0.0) -> tuple[Tensor, Tensor]:
    """A closed sphere of radius 1, about ``n_faces`` faces, front outward; bumps up to that share of the radius."""
    rings = max(3, round(math.sqrt(n_faces / 4)))
    polar = torch.arange(1, rings, dtype=torch.float64)[:, None] * (math.pi / rings)
    around = torch.arange(2 * rings, dtype=torch.float64) * (math.pi / rings)
    x, y, z = polar.sin() * around.sin(), polar.cos().expand(-1, 2 * rings), polar.sin() * around.cos()
    poles = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)
    points = torch.cat([torch.stack([x, y, z], -1).flatten(0, 1), poles])
    index = torch.arange(2 * rings * (rings - 1)).view(rings - 1, -1)
    after = index.roll(-1, 1)
    quads = index[:-1], index[1:], after[1:], after[:-1]
    north, south = torch.full_like(index[0], len(points) - 2), torch.full_like(index[0], len(points) - 1)
    corners = [
        (quads[0], quads[1], quads[2]),
        (quads[0], quads[2], quads[3]),
        (north, index[0], after[0]),
        (south, after[-1], index[-1]),
    ]
    faces = torch.cat([torch.stack(c, -1).view(-1, 3) for c in corners])
    waves = torch.sin(7 * points[:, 0] + 1) * torch.sin(6 * points[:, 1] + 2) * torch.sin(8 * points[:, 2] + 0.5)
    return (points * (1 + bumps * waves[:, None])).float(), faces


def to_clip(
    points: Tensor, azimuth: float = 0.4, elevation: float = 0.3, distance: float = 3.75, fov: float = 0.8
) -> Tensor:
    """Points [V, 3] as a camera sees them that looks at the origin: [V, 4]. Angles in radians."""
    x, y, z = points.unbind(-1)
    x, z = math.cos(azimuth) * x - math.sin(azimuth) * z, math.sin(azimuth) * x + math.cos(azimuth) * z
    y, z = math.cos(elevation) * y - math.sin(elevation) * z, math.sin(elevation) * y + math.cos(elevation) * z
    depth = distance - z
    focal, near, far = 1 / math.tan(fov / 2), 0.5, 10.0
    return torch.stack([focal * x, focal * y, (depth * (far + near) - 2 * far * near) / (far - near), depth], -1)


def texels_of_each(places, faces, size):
    """The texels, flat, whose centres lie on each triangle, by the signs of its edges; places [V, 2] in texels."""
    for corners in places[faces]:
        low, high = np.clip([np.ceil(corners.min(0) - 0.5), np.floor(corners.max(0) + 0.5)], 0, size).astype(int)
        columns, rows = (grid.reshape(-1) for grid in np.meshgrid(*map(np.arange, low, high)))
        points = np.stack([columns, rows], 1) + 0.5
        one, other = corners - points[:, None], np.roll(corners, -1, 0) - points[:, None]
        sides = one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]
        inside = ((sides >= 0).all(1) | (sides <= 0).all(1)) & sides.any(1)
        yield rows[inside] * size + columns[inside]
