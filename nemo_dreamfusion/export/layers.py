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

"""Layers of a render: straight alpha to composite, and light from another side on what was rendered once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.data.cameras import orbit_direction
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.parts.types import RayBundle, RenderOutput

_CLEAR = 1 / 255  # opacity below which a pixel has no colour of its own
LIGHT_ELEVATION_DEG = 35.0
AMBIENT = 0.25  # share of light from everywhere


def straight_alpha(render: RenderOutput, background: Tensor) -> Tensor:
    """Return colour and opacity of the object alone, not multiplied with each other: [B, H, W, 4] in [0, 1].

    Over ``background`` it is the render again, to within what clipping at 0 and 1 takes.

    Args:
        render: over a background.
        background: [B, H, W, 3], that background.
    """
    premultiplied = render.image - (1 - render.opacity) * background
    color = torch.where(render.opacity > _CLEAR, premultiplied / render.opacity.clamp(min=_CLEAR), 0.0)
    return torch.cat([color, render.opacity], -1).clamp(0, 1)


def relit(
    rgba: Tensor, normals: Tensor, rays: RayBundle, background: Tensor, material: Material, frames: int
) -> Iterator[Tensor]:
    """Shade one render again, under a light that travels once around: yields ``frames`` images [H, W, 3].

    The field is not asked again: the material shades each pixel's mean albedo by its mean normal, so a pixel that several
    depths share gets one shade. The light starts behind the camera.

    Args:
        rgba: [1, H, W, 4], straight alpha, albedo.
        normals: [1, H, W, 3], of any length.
        rays: of the camera.
        background: [1, H, W, 3].
        material: what shades.
        frames: of the turn.
    """
    albedo, opacity = rgba[..., :3].reshape(-1, 3), rgba[..., 3:].reshape(-1, 1)
    facing = F.normalize(normals.reshape(-1, 3).nan_to_num(), dim=-1)
    behind = background.reshape(-1, 3) * (1 - opacity)
    middle = rays.origins[0]
    start = torch.rad2deg(torch.atan2(middle[0], middle[2]))
    for i in range(frames):
        azimuth = (start + 360.0 * i / frames).reshape(1)
        light = orbit_direction(azimuth, torch.full_like(azimuth, LIGHT_ELEVATION_DEG)).expand_as(facing)
        color = material(albedo, facing, rays.directions, light, AMBIENT, 'lambertian')
        yield (color * opacity + behind).view(*rgba.shape[1:3], 3)
