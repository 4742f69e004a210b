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

"""The colour that cameras see at a point of the surface.

Score distillation optimises pictures, and a field may stay foggy: they show the albedo of a layer, not of the surface where
the mesh is. Where the field is opaque both are the same. A foggy hamburger shows other colours from above than from beside;
no texture shows both, and it gets their mean. That agrees with renders of cameras that it was not made for by 24 dB, one
direction alone by 23, and the albedo on the surface by 20; a red cube by 36.5, 36.3 and 31.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.data.cameras import orbit_direction
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.bake import check_colors
from nemo_dreamfusion.modules.nerf.base import RadianceField

# Of the samples along a ray into the object, in half sides of the box; close together at the surface, so that an opaque
# field gives the albedo there.
_DEPTHS = (-0.03, -0.015, -0.007, 0.0, 0.01, 0.02, 0.035, 0.055, 0.08, 0.11, 0.15, 0.2, 0.26, 0.34, 0.44, 0.6)
# Weight of the normal among the directions of the cameras, which gives way to them as the sum of their cosines passes _FEW:
# without a gradual change, an underside that no camera faces is blotched.
_OWN, _FEW = 0.5, 0.3
_RINGS_DEG = (-20.0, 30.0)  # elevations from which a point is looked at, beside that of the cameras
_POINTS = 1 << 18  # per call of the field
_NEVER = 1e-6  # opacity below which a ray has met nothing


def seen_colors(
    field: RadianceField, device: torch.device, orbit: OrbitCameras
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function from positions and unit normals, [N, 3] each, to the colours [N, 3] in [0, 1] seen there.

    Two rays go into each point, from below and above the cameras, each from the mean direction of those in front of it,
    weighted by the cosine with the normal; where there is none, along the normal. Their albedo is composited as in a render,
    and counts as much as the cameras face the point.

    Args:
        field: density and albedo.
        device: where it is evaluated.
        orbit: the cameras, which stand around the object on one elevation.

    Raises (the function):
        ValueError: for colours that are not finite numbers.
    """
    rings = [_directions(orbit, offset) for offset in _RINGS_DEG]
    depths = torch.tensor(_DEPTHS, device=device) * field.bound
    steps = torch.diff(depths, append=depths[-1:] + (depths[-1] - depths[-2]))

    def composite(position: Tensor, direction: Tensor) -> Tensor:
        points = (position[None] - depths[:, None, None] * direction).clamp(-field.bound, field.bound)
        out = field(points.view(-1, 3))
        thickness = out.density.view(len(depths), -1).float() * steps[:, None]
        before = thickness.cumsum(0) - thickness
        weights = torch.exp(-before) * -torch.expm1(-thickness)
        weights[len(_DEPTHS) // 2] += _NEVER  # inside, close to the surface
        albedo = out.albedo.view(len(depths), -1, 3).float()
        return (weights[..., None] * albedo).sum(0) / weights.sum(0)[:, None]

    @torch.no_grad()
    def look_up(positions: np.ndarray, normals: np.ndarray) -> np.ndarray:
        position, normal = (torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (positions, normals))
        parts = []
        for p, n in zip(position.split(_POINTS // len(_DEPTHS)), normal.split(_POINTS // len(_DEPTHS))):
            total, weight = torch.zeros(len(p), 3), torch.zeros(len(p), 1)
            for towards in rings:
                cosine = (n @ towards.T).clamp(min=0)
                faced = cosine.sum(-1, keepdim=True)
                direction = cosine @ towards + _OWN * torch.exp(-((faced / _FEW) ** 2)) * n
                direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-9)
                faced = faced + _NEVER
                total += faced * composite(p.to(device), direction.to(device)).cpu()
                weight += faced
            parts.append(total / weight)
        return check_colors(torch.cat(parts) if parts else torch.zeros(0, 3))

    return look_up


def _directions(orbit: OrbitCameras, offset_deg: float) -> Tensor:
    """Return where the cameras of an orbit would stand so much higher: unit vectors [V, 3]."""
    azimuth_deg = torch.cat([orbit[i].azimuth_deg for i in range(len(orbit))])
    elevation_deg = torch.full_like(azimuth_deg, min(max(orbit.elevation_deg + offset_deg, -89.0), 89.0))
    return orbit_direction(azimuth_deg, elevation_deg)
