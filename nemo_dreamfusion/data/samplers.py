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

"""The sets of cameras: random ones for training, an even orbit for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nemo_dreamfusion.data.cameras import cameras_from_orbit, look_at, orbit_angles, orbit_direction, wrap_degrees
from nemo_dreamfusion.parts.checks import check_interval, check_positive, check_range, refuse
from nemo_dreamfusion.parts.types import CameraBatch


class RandomCameras:
    """Random cameras around the object, drawn anew at each step from a generator that the caller seeds and saves.

    Every image has its own position and its own angle of view. The number of random draws does not depend on their
    outcome, so that two runs with one seed stay in step.

    Args:
        batch_size: images per step and rank.
        distance_range: [near, far] from the origin, world units.
        elevation_range_deg: [low, high], degrees; 0 is the horizon.
        azimuth_range_deg: [from, to], degrees; 0 is the front (+z), positive toward +x.
        fov_range_deg: [narrow, wide], full vertical angle of view, degrees.
        overhead_probability: share of the cameras whose elevation is drawn from ``overhead_elevation_range_deg``.
        overhead_elevation_range_deg: [low, high], degrees.
        uniform_sphere_rate: share of the other cameras that are spread evenly over the sphere's area between the
            elevations (as half of DreamFusion's are), not evenly over the angle.
        jitter_position: each coordinate of the position moves by up to this much, world units (uniform).
        jitter_target: standard deviation of each coordinate of the point looked at, world units.
        jitter_up: standard deviation of each coordinate of the up vector.
        views: cameras of a ring, of which ``batch_size`` is a multiple: the first is drawn, the others stand evenly around
            the object from there, next to it in the batch. Four are what MVDream looks at, two are a camera and the one
            opposite; None: each camera for itself.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        distance_range: Sequence[float],
        elevation_range_deg: Sequence[float],
        fov_range_deg: Sequence[float],
        azimuth_range_deg: Sequence[float] = (-180.0, 180.0),
        overhead_probability: float = 0.0,
        overhead_elevation_range_deg: Sequence[float] = (60.0, 90.0),
        uniform_sphere_rate: float = 0.0,
        jitter_position: float = 0.0,
        jitter_target: float = 0.0,
        jitter_up: float = 0.0,
        views: int | None = None,
    ) -> None:
        self.batch_size = check_positive('batch_size', batch_size, integer=True)
        self.distance_range = check_interval('distance_range', distance_range, 1e-6)
        self.elevation_range_deg = check_interval('elevation_range_deg', elevation_range_deg, -90, 90)
        self.azimuth_range_deg = check_interval('azimuth_range_deg', azimuth_range_deg, -360, 360)
        self.fov_range_deg = check_interval('fov_range_deg', fov_range_deg, 1, 170)
        self.overhead_probability = check_range('overhead_probability', overhead_probability, 0, 1)
        name = 'overhead_elevation_range_deg'
        self.overhead_elevation_range_deg = check_interval(name, overhead_elevation_range_deg, -90, 90)
        self.uniform_sphere_rate = check_range('uniform_sphere_rate', uniform_sphere_rate, 0, 1)
        self.jitter_position = check_range('jitter_position', jitter_position, 0)
        self.jitter_target = check_range('jitter_target', jitter_target, 0)
        self.jitter_up = check_range('jitter_up', jitter_up, 0)
        self.views = check_positive('views', 1 if views is None else views, integer=True)
        if batch_size % self.views:
            refuse('batch_size', batch_size, f'a multiple of views, which is {views}')

    def sample(self, generator: torch.Generator, height: int, width: int) -> CameraBatch:
        """Draw ``batch_size`` cameras on the generator's device, their angles and distance those of the jittered position.

        Args:
            generator: is advanced by the same number of draws at every call.
            height: pixels.
            width: pixels.
        """
        check_positive('height', height, integer=True)
        check_positive('width', width, integer=True)
        count = self.batch_size // self.views
        uniform = torch.rand(9, count, generator=generator, device=generator.device)
        normal = torch.randn(2, count, 3, generator=generator, device=generator.device)
        distance = _map_to(uniform[0], self.distance_range)
        azimuth_deg = _map_to(uniform[1], self.azimuth_range_deg)
        position = orbit_direction(azimuth_deg, self._elevations(uniform[2:5])) * distance[:, None]
        position = position + (2 * uniform[5:8].mT - 1) * self.jitter_position
        up = position.new_tensor([0.0, 1.0, 0.0]) + normal[1] * self.jitter_up
        azimuth_deg, elevation_deg = orbit_angles(position)
        drawn = CameraBatch(
            camera_to_world=look_at(position, normal[0] * self.jitter_target, up),
            fov_y_rad=torch.deg2rad(_map_to(uniform[8], self.fov_range_deg)),
            azimuth_deg=azimuth_deg,
            elevation_deg=elevation_deg,
            distance=position.norm(dim=-1),
            height=height,
            width=width,
        )
        return drawn if self.views == 1 else rings(drawn, self.views)

    def _elevations(self, uniform: Tensor) -> Tensor:
        """Return elevations in degrees from three uniform draws each: [3, B] -> [B]."""
        value, choose_overhead, choose_sphere = uniform
        by_angle = _map_to(value, self.elevation_range_deg)
        limits = torch.deg2rad(value.new_tensor(self.elevation_range_deg)).sin()  # equal areas have equal heights
        by_area = torch.rad2deg(torch.lerp(limits[0], limits[1], value).clamp(-1, 1).asin())
        usual = torch.where(choose_sphere < self.uniform_sphere_rate, by_area, by_angle)
        overhead = _map_to(value, self.overhead_elevation_range_deg)
        return torch.where(choose_overhead < self.overhead_probability, overhead, usual)


def rings(first: CameraBatch, views: int) -> CameraBatch:
    """Return each camera and those that stand evenly around the object's vertical axis from it: B -> [B * views]."""
    turns = torch.arange(views, device=first.azimuth_deg.device).repeat(len(first)) * (360.0 / views)
    same = {
        name: getattr(first, name).repeat_interleave(views, 0)
        for name in ('camera_to_world', 'fov_y_rad', 'azimuth_deg', 'elevation_deg', 'distance')
    }
    same['camera_to_world'] = turn_about_y(turns) @ same['camera_to_world']
    same['azimuth_deg'] = wrap_degrees(same['azimuth_deg'] + turns)
    return replace(first, **same)


def turn_about_y(angle_deg: Tensor) -> Tensor:
    """Return rotations by angles [B] that turn +z toward +x, as azimuths grow: [B, 4, 4]."""
    angle = torch.deg2rad(angle_deg)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = angle.cos(), angle.sin()
    rows = ((cos, zero, sin, zero), (zero, one, zero, zero), (-sin, zero, cos, zero), (zero, zero, zero, one))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


class OrbitCameras(Dataset):
    """Cameras evenly around the object at one elevation, starting at the front: a map-style set of single cameras.

    Args:
        views: how many; camera i stands at azimuth i * 360 / views.
        elevation_deg: degrees over the horizon.
        distance: from the origin, world units.
        fov_deg: full vertical angle of view, degrees.
        height: pixels.
        width: pixels.
    """

    def __init__(
        self, *, views: int, elevation_deg: float, distance: float, fov_deg: float, height: int, width: int
    ) -> None:
        self.views = check_positive('views', views, integer=True)
        self.elevation_deg = check_range('elevation_deg', elevation_deg, -90, 90)
        self.distance = check_positive('distance', distance)
        self.fov_deg = check_range('fov_deg', fov_deg, 1, 170)
        self.height = check_positive('height', height, integer=True)
        self.width = check_positive('width', width, integer=True)

    def resized(self, views: int, size: int) -> OrbitCameras:
        """Return the same orbit with another number of views, square images of ``size`` pixels a side."""
        same = {'elevation_deg': self.elevation_deg, 'distance': self.distance, 'fov_deg': self.fov_deg}
        return OrbitCameras(views=views, **same, height=size, width=size)

    def __len__(self) -> int:
        return self.views

    def __getitem__(self, index: int) -> CameraBatch:
        if not -self.views <= index < self.views:
            raise IndexError(f'camera {index} of {self.views}')
        return self._cameras(torch.tensor([index % self.views]))

    def all(self) -> CameraBatch:
        """The whole orbit as one batch."""
        return self._cameras(torch.arange(self.views))

    def _cameras(self, index: Tensor) -> CameraBatch:
        same = torch.ones(len(index))
        return cameras_from_orbit(
            index * (360.0 / self.views),
            same * self.elevation_deg,
            same * self.distance,
            same * self.fov_deg,
            self.height,
            self.width,
        )


def _map_to(uniform: Tensor, interval: tuple[float, float]) -> Tensor:
    """Map uniform draws in [0, 1) to [first, last)."""
    first, last = interval
    return first + (last - first) * uniform
