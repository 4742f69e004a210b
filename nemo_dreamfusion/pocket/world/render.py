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

"""Render the true scenes by sphere tracing with Lambert shading.

Shapes: B cameras, S² samples per pixel, R rays. A camera has x right, y up, and looks down −z; poses are camera-to-world.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.parts.checks import check_interval, check_range
from nemo_dreamfusion.pocket.world.bounds import measure_box
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

_BOUND = 1.0  # every scene lies in this ball
_MARGIN = 0.01  # around the bounding box: more than what still counts as a hit
_STEPS = 64  # for rays that graze a face
_HIT = 2e-3  # a fifteenth of a pixel at 64 px
_CHUNK = 1 << 15  # rays at a time: their temporaries stay in the cache


@dataclass(frozen=True)
class CameraRange:
    """The cameras of the training set; the apparent size of an object is almost fixed."""

    distance: tuple[float, float] = (3.1, 3.3)
    fov_y_deg: float = 36.0
    azimuth_deg: tuple[float, float] = (-180.0, 180.0)
    elevation_deg: tuple[float, float] = (-15.0, 60.0)
    overhead_deg: tuple[float, float] = (60.0, 85.0)
    overhead_share: float = 0.15

    def __post_init__(self) -> None:
        limits = {'distance': (1.0, 100.0), 'azimuth_deg': (-180.0, 180.0)}
        for name in ('distance', 'azimuth_deg', 'elevation_deg', 'overhead_deg'):
            check_interval(f'cameras.{name}', getattr(self, name), *limits.get(name, (-89.0, 89.0)))
        check_range('cameras.fov_y_deg', self.fov_y_deg, 1, 170)
        check_range('cameras.overhead_share', self.overhead_share, 0, 1)

    @property
    def mean_distance(self) -> float:
        """Return the middle of the distances."""
        return sum(self.distance) / 2


def look_at_origin(azimuth_deg: Tensor, elevation_deg: Tensor, distance: Tensor) -> Tensor:
    """Return camera-to-world poses on a sphere, looking at its centre: three [B] → [B, 4, 4].

    Azimuth 0 is +z (the front), positive toward +x; elevation positive up, below 90° in size.
    """
    fov_y_deg = torch.full_like(distance, CameraRange.fov_y_deg)  # not part of the pose
    return cameras_from_orbit(azimuth_deg, elevation_deg, distance, fov_y_deg, 1, 1).camera_to_world


@dataclass(frozen=True)
class Render:
    """What a camera sees of a true scene."""

    image: Tensor  # [B, H, W, 3] linear RGB in [0, 1], over the background
    opacity: Tensor  # [B, H, W] in [0, 1]: the covered part of each pixel


def render(
    scene: Scene,
    camera_to_world: Tensor,  # [B, 4, 4]
    *,
    size: int,
    fov_y_deg: float = CameraRange.fov_y_deg,
    ambient: float = 1.0,
    light: Tensor | None = None,  # [B, 3] unit vectors toward the light; None: at the camera
    background: Tensor | None = None,  # [B, 3] or [3]; None: white
    samples: int = 2,
) -> Render:
    """Render square images of the scene, samples² rays per pixel.

    Args:
        scene: the solids.
        camera_to_world: poses.
        size: pixels of a side.
        fov_y_deg: the full vertical angle of view.
        ambient: 1 shows the pure albedo, 0 only the light: albedo · (ambient + (1 − ambient)·max(0, n·l)).
        light: direction toward the light.
        background: colour behind the object.
        samples: rays per pixel and axis.
    """
    count, side = len(camera_to_world), size * samples
    directions = _directions(camera_to_world, side, fov_y_deg)  # [B, side², 3]
    light = camera_to_world[:, :3, 2] if light is None else light
    background = torch.ones(3) if background is None else background
    rays = directions.view(-1, 3)  # [R, 3], all cameras together
    origins = camera_to_world[:, None, :3, 3].expand(count, side * side, 3).reshape(-1, 3)
    lights = light[:, None].expand(count, side * side, 3).reshape(-1, 3)
    parts = zip(origins.split(_CHUNK), rays.split(_CHUNK), lights.split(_CHUNK))
    shaded = [_shade(scene, *part, ambient) for part in parts]
    color, hit = (torch.cat(values) for values in zip(*shaded))
    color = _average(color.view(count, side, side, 3), samples)
    opacity = _average(hit.view(count, side, side, 1), samples)
    image = color + (1 - opacity) * background.expand(count, 3)[:, None, None, :]
    return Render(image=image, opacity=opacity[..., 0])


def _directions(camera_to_world: Tensor, side: int, fov_y_deg: float) -> Tensor:
    """Return unit ray directions, row by row from the top left: [B, 4, 4] → [B, side², 3]."""
    ticks = ((torch.arange(side) + 0.5) / side * 2 - 1) * math.tan(math.radians(fov_y_deg) / 2)
    y, x = torch.meshgrid(-ticks, ticks, indexing='ij')
    local = torch.stack([x, y, -torch.ones_like(x)], -1).view(-1, 3)
    return torch.nn.functional.normalize(local, dim=-1) @ camera_to_world[:, :3, :3].mT


def _average(values: Tensor, samples: int) -> Tensor:
    """Average the samples of each pixel: [B, H·S, W·S, C] → [B, H, W, C]."""
    b, h, w, c = values.shape
    return values.view(b, h // samples, samples, w // samples, samples, c).mean((2, 4))


def _shade(scene: Scene, origins: Tensor, rays: Tensor, lights: Tensor, ambient: float) -> tuple[Tensor, Tensor]:
    """Return the colour [R, 3], black where nothing is hit, and the hits [R] as 0 or 1 of rays with their lights [R, 3]."""
    color, hit = torch.zeros_like(rays), torch.zeros(len(rays))
    index, points = trace(scene, origins, rays)
    if len(index):
        shade = scene.albedo(points)
        if ambient < 1:
            facing = (scene.normals(points) * lights[index]).sum(-1).clamp_min_(0)
            shade = shade * (ambient + (1 - ambient) * facing)[:, None]
        color[index] = shade
        hit[index] = 1
    return color, hit


def trace(scene: Scene, origins: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Sphere-trace rays [R, 3] from origins [R, 3]; return the indices [H] of those that hit, and where [H, 3].

    Only rays that have neither hit nor left the bounds of the scene are evaluated.
    """
    near, depth_end = _cross_bounds(scene, origins, rays)
    index = (near < depth_end).nonzero()[:, 0]
    depth, far, origins, rays = near[index], depth_end[index], origins[index], rays[index]
    hit_index, hit_points = [], []
    for _ in range(_STEPS):
        points = torch.addcmul(origins, depth[:, None], rays)
        distance = scene.signed_distance(points)
        depth = depth + distance
        hit = distance < _HIT
        hit_index.append(index[hit])
        hit_points.append(points[hit])
        live = (~hit & (depth < far)).nonzero()[:, 0]
        if not len(live):
            break
        index, depth, far, origins, rays = index[live], depth[live], far[live], origins[live], rays[live]
    return torch.cat(hit_index), torch.cat(hit_points)


def _cross_bounds(scene: Scene, origins: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Return where rays enter and leave the bounding box of the scene in the unit ball, [R] each; first > last: never."""
    low, high = _find_box(scene.primitives)
    inverse = 1 / torch.where(rays.abs() < 1e-9, 1e-9, rays)
    one, other = (low - origins) * inverse, (high - origins) * inverse
    near, far = torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)
    middle = -(rays * origins).sum(-1)  # ray parameter nearest to the centre of the ball
    inside = middle.square() - (origins.square().sum(-1) - _BOUND**2)
    half = inside.clamp_min(0).sqrt()
    return torch.maximum(near, middle - half), torch.minimum(far, middle + half)


@lru_cache(maxsize=256)
def _find_box(primitives: tuple[Primitive, ...]) -> tuple[Tensor, Tensor]:
    low, high = measure_box(primitives)
    return torch.tensor(low - _MARGIN, dtype=torch.float32), torch.tensor(high + _MARGIN, dtype=torch.float32)
