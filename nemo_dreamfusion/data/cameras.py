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

"""Cameras as pure geometry: where they stand, what they look at, and the ray through each pixel.

World and camera axes are those of ``parts/types.py``: y up, front at +z; a camera has x right, y up and looks down -z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_positive
from nemo_dreamfusion.parts.types import CameraBatch, RayBundle

_PARALLEL = 1e-6  # sine of the angle between `up` and the line of sight below which `up` says nothing about the roll


def look_at(position: Tensor, target: Tensor, up: Tensor | tuple[float, float, float] = (0.0, 1.0, 0.0)) -> Tensor:
    """Return the poses of cameras at ``position`` that look at ``target``: [B, 3], [B, 3] -> camera-to-world [B, 4, 4].

    Where the line of sight runs along ``up`` (a camera over a pole), the camera's right is +x, which is what azimuth 0
    gives when it climbs to the pole. The rotation's determinant is +1 everywhere.

    Args:
        position: [B, 3] where the cameras stand.
        target: [B, 3] what they look at; where it equals the position, the camera looks along -z.
        up: [3] or [B, 3], the direction that shall point up in the image.
    """
    up = torch.as_tensor(up, dtype=position.dtype, device=position.device).expand_as(position)
    back = position - target
    back = torch.where(back.norm(dim=-1, keepdim=True) > 0, back, back.new_tensor([0.0, 0.0, 1.0]))
    back = F.normalize(back, dim=-1)
    right = torch.linalg.cross(F.normalize(up, dim=-1), back, dim=-1)
    right = torch.where(right.norm(dim=-1, keepdim=True) > _PARALLEL, right, _any_right(back))
    right = F.normalize(right, dim=-1, eps=0.0)
    rotation = torch.stack([right, torch.linalg.cross(back, right, dim=-1), back], dim=-1)
    return _pose(rotation, position)


def cameras_from_orbit(
    azimuth_deg: Tensor,  # [B]
    elevation_deg: Tensor,  # [B]
    distance: Tensor,  # [B], world units
    fov_y_deg: Tensor,  # [B]
    height: int,
    width: int,
) -> CameraBatch:
    """Place cameras on a sphere around the origin, looking at it with the horizon level; exact at the poles too.

    Raises:
        ValueError: for a ``height`` or ``width`` that is no positive whole number.
    """
    check_positive('height', height, integer=True)
    check_positive('width', width, integer=True)
    azimuth = torch.deg2rad(azimuth_deg)
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], -1)
    back = orbit_direction(azimuth_deg, elevation_deg)
    rotation = torch.stack([right, torch.linalg.cross(back, right, dim=-1), back], dim=-1)
    return CameraBatch(
        camera_to_world=_pose(rotation, back * distance[:, None]),
        fov_y_rad=torch.deg2rad(fov_y_deg),
        azimuth_deg=wrap_degrees(azimuth_deg),
        elevation_deg=elevation_deg,
        distance=distance,
        height=height,
        width=width,
    )


def orbit_direction(azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
    """Return unit vectors from the origin toward the given angles: [B], [B] -> [B, 3]."""
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    level = elevation.cos()
    return torch.stack([azimuth.sin() * level, elevation.sin(), azimuth.cos() * level], -1)


def orbit_angles(position: Tensor) -> tuple[Tensor, Tensor]:
    """Invert :func:`orbit_direction`: [B, 3] of any length -> azimuth_deg [B] in [-180, 180), elevation_deg [B]."""
    x, y, z = position.unbind(-1)
    azimuth_deg = torch.rad2deg(torch.atan2(x, z))
    elevation_deg = torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))
    return wrap_degrees(azimuth_deg), elevation_deg


def wrap_degrees(angle_deg: Tensor) -> Tensor:
    """Return the angles in [-180, 180): any shape -> the same shape, degrees."""
    wrapped = torch.remainder(angle_deg + 180.0, 360.0) - 180.0
    return torch.where(wrapped >= 180.0, wrapped - 360.0, wrapped)  # remainder of a tiny negative rounds up to 360


def rays(cameras: CameraBatch) -> RayBundle:
    """Cast one ray per pixel through its centre: unit directions, row 0 at the top, row-major over (B, H, W).

    Pixels are square: the horizontal angle of view follows from the vertical one and the image's shape.
    """
    count, height, width = len(cameras), cameras.height, cameras.width
    like = cameras.camera_to_world
    half = torch.tan(cameras.fov_y_rad / 2)[:, None, None]  # [B, 1, 1], half the image's height at depth 1
    column = torch.arange(width, dtype=like.dtype, device=like.device)
    row = torch.arange(height, dtype=like.dtype, device=like.device)
    x = ((2 * column + 1 - width) / height)[None, None, :] * half
    y = ((height - 1 - 2 * row) / height)[None, :, None] * half
    shape = (count, height, width)
    local = torch.stack(
        [x.expand(shape), y.expand(shape), -torch.ones(shape, dtype=like.dtype, device=like.device)], -1
    )
    # Sums of products and no matrix product: autocast and TF32 would round it and move rays by pixels.
    right, up, back = F.normalize(local, dim=-1).split(1, -1)
    turn = like[:, None, None, :3, :3]
    world = right * turn[..., 0] + up * turn[..., 1] + back * turn[..., 2]
    origins = like[:, None, None, :3, 3].expand_as(world)
    return RayBundle(origins.reshape(-1, 3), world.reshape(-1, 3), image_shape=shape, cameras=cameras)


def rays_through(camera: CameraBatch, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return origins and unit directions [N, 3] of the rays of :func:`rays` through some pixels [N] of one camera.

    >>> camera = cameras_from_orbit(*torch.tensor([[30.0], [10.0], [4.0], [40.0]]), 6, 8)
    >>> origins, directions = rays_through(camera, torch.tensor([0, 13]))
    >>> torch.equal(directions, rays(camera).directions[[0, 13]])
    True
    """
    pose, half = camera.camera_to_world[0], torch.tan(camera.fov_y_rad / 2)
    column, row = (pixels % camera.width).to(pose), (pixels // camera.width).to(pose)
    x = ((2 * column + 1 - camera.width) / camera.height) * half
    y = ((camera.height - 1 - 2 * row) / camera.height) * half
    right, up, back = F.normalize(torch.stack([x, y, -torch.ones_like(x)], -1), dim=-1).split(1, -1)
    directions = right * pose[:3, 0] + up * pose[:3, 1] + back * pose[:3, 2]
    return pose[:3, 3].expand_as(directions), directions


def collate_cameras(cameras: list[CameraBatch]) -> CameraBatch:
    """Join several batches of one image size, one after the other.

    Raises:
        ValueError: for batches of different image sizes.
    """
    first = cameras[0]
    if any((c.height, c.width) != (first.height, first.width) for c in cameras):
        raise ValueError('cameras of different image sizes cannot share a batch: set the batch size to 1.')
    names = [name for name, value in vars(first).items() if isinstance(value, Tensor)]
    tensors = {name: torch.cat([getattr(c, name) for c in cameras]) for name in names}
    return CameraBatch(**tensors, height=first.height, width=first.width)


def _any_right(back: Tensor) -> Tensor:
    """Return a vector across the line of sight: +x without its part along ``back``, or +z where ``back`` is ±x."""
    axis = torch.where(back[:, :1].abs() < 0.9, back.new_tensor([1.0, 0.0, 0.0]), back.new_tensor([0.0, 0.0, 1.0]))
    return axis - (axis * back).sum(-1, keepdim=True) * back


def _pose(rotation: Tensor, position: Tensor) -> Tensor:
    """Join rotations and positions to poses: [B, 3, 3], [B, 3] -> [B, 4, 4]."""
    pose = torch.zeros(len(position), 4, 4, dtype=position.dtype, device=position.device)
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = position
    pose[:, 3, 3] = 1
    return pose
