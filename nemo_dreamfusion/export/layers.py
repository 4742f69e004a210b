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
_SMOOTHING = 0.016  # standard deviation of the depths' smoothing, share of the picture's height
LIGHT_ELEVATION_DEG = 35.0
AMBIENT = 0.4  # share of light from everywhere


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


def surface_normals(render: RenderOutput, rays: RayBundle) -> Tensor:
    """Return the outward normals of the surface that one view sees, from its depths: [1, H, W, 3], unit length.

    A field that was never shaded has the right surface under densities that waver from cell to cell; so the depths are
    smoothed over ``_SMOOTHING`` of the picture, weighted by opacity, before the surface is differentiated.

    Args:
        render: of one camera.
        rays: of that camera.
    """
    shape = (1, *rays.image_shape[1:], 1)
    sigma = max(1.0, _SMOOTHING * shape[1])
    weight = render.opacity.view(shape)
    total = _blur(weight, sigma)
    depth = _blur(render.depth.view(shape) * weight, sigma) / total.clamp(min=1e-6)
    depth = torch.where(total > 1e-3, depth, depth.new_tensor(0.0))
    points = rays.origins.view(*shape[:3], 3) + rays.directions.view(*shape[:3], 3) * depth
    right = points.roll(-1, 2) - points.roll(1, 2)
    up = points.roll(1, 1) - points.roll(-1, 1)  # row 0 is the top
    return F.normalize(torch.linalg.cross(right, up, dim=-1), dim=-1)


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Smooth an image [1, H, W, 1] by a Gaussian of ``sigma`` pixels; the picture goes on as its edge is."""
    reach = int(3 * sigma + 0.5)
    place = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = image.permute(0, 3, 1, 2)
    for shape, pad in (((1, 1, 1, -1), (reach, reach, 0, 0)), ((1, 1, -1, 1), (0, 0, reach, reach))):
        planes = F.conv2d(F.pad(planes, pad, mode='replicate'), kernel.view(shape))
    return planes.permute(0, 2, 3, 1)


def relit(
    rgba: Tensor, normals: Tensor, rays: RayBundle, background: Tensor, material: Material, frames: int
) -> Iterator[Tensor]:
    """Shade one render again, under a light that travels once around: yields ``frames`` images [H, W, 3].

    The field is not asked again: the material shades each pixel's mean albedo by one normal, so a pixel that several
    depths share gets one shade. The light starts behind the camera.

    Args:
        rgba: [1, H, W, 4], straight alpha, albedo.
        normals: [1, H, W, 3], such as :func:`surface_normals`.
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
