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
the mesh is. The object of the default recipe has 10 and 90 percent of a pixel's colour half a world unit apart; the albedo
on its surface agrees with the renders by 19.7 dB, the one below by 26. Where the field is opaque both are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.bake import check_colors
from nemo_dreamfusion.modules.nerf.base import RadianceField

# Of the samples along a ray into the object, in half sides of the box; close together at the surface, so that an opaque
# field gives the albedo there.
_DEPTHS = (-0.03, -0.015, -0.007, 0.0, 0.01, 0.02, 0.035, 0.055, 0.08, 0.11, 0.15, 0.2, 0.26, 0.34, 0.44, 0.6)
# Weight of the normal among the directions of the cameras, which gives way to them as the sum of their cosines passes _FEW:
# without a gradual change, an underside that no camera faces is blotched.
_OWN, _FEW = 0.5, 0.3
_POINTS = 1 << 18  # per call of the field
_NEVER = 1e-6  # opacity below which a ray has met nothing


def seen_colors(
    field: RadianceField, device: torch.device, orbit: OrbitCameras
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function from positions and unit normals, [N, 3] each, to the colours [N, 3] in [0, 1] seen there.

    One ray goes into each point, from the mean direction of the cameras in front of it, each weighted by the cosine with the
    normal; where there is none, along the normal. Its albedo is composited as in a render.

    Args:
        field: density and albedo.
        device: where it is evaluated.
        orbit: the cameras.

    Raises (the function):
        ValueError: for colours that are not finite numbers.
    """
    places = torch.cat([orbit[i].camera_to_world[:, :3, 3] for i in range(len(orbit))]).float()
    towards = places / places.norm(dim=-1, keepdim=True)
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
        cosine = (normal @ towards.T).clamp(min=0)
        own = _OWN * torch.exp(-((cosine.sum(-1, keepdim=True) / _FEW) ** 2))
        direction = cosine @ towards + own * normal
        direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        rays = zip(position.split(_POINTS // len(_DEPTHS)), direction.split(_POINTS // len(_DEPTHS)))
        parts = [composite(p.to(device), d.to(device)).cpu() for p, d in rays]
        return check_colors(torch.cat(parts) if parts else torch.zeros(0, 3))

    return look_up
