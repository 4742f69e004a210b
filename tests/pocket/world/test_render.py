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

"""Renders against closed forms."""

import math

import pytest
import torch

from nemo_dreamfusion.pocket import metrics
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import CameraRange, look_at_origin, render, trace
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

pytestmark = pytest.mark.unit

SIZE = 32


def pose(azimuth_deg, elevation_deg, distance=3.2):
    return look_at_origin(*(torch.tensor([float(v)]) for v in (azimuth_deg, elevation_deg, distance)))


@pytest.mark.parametrize(
    ('azimuth', 'elevation', 'position'),
    [(0, 0, (0, 0, 1)), (90, 0, (1, 0, 0)), (180, 0, (0, 0, -1)), (0, 30, (0, 0.5, math.sqrt(0.75)))],
)
def test_cameras_stand_where_the_convention_says(azimuth, elevation, position):
    camera = pose(azimuth, elevation, 2.0)[0]
    torch.testing.assert_close(camera[:3, 3], 2 * torch.tensor(position, dtype=torch.float32), atol=1e-6, rtol=0)
    torch.testing.assert_close(camera[:3, 2], torch.tensor(position, dtype=torch.float32), atol=1e-6, rtol=0)
    assert torch.linalg.det(camera[:3, :3]).item() == pytest.approx(1)
    assert camera[1, 1] > 0


def test_silhouette_of_a_sphere_is_its_projected_disc():
    radius, distance, size = 0.7, 3.2, 64
    scene = Scene([Primitive('ellipsoid', (0, 0, 0), (radius,) * 3, (1, 0, 0))])
    opacity = render(scene, pose(30, 20, distance), size=size).opacity[0]
    tangent = math.tan(math.asin(radius / distance))  # of the half angle that the sphere fills
    pixels = tangent / math.tan(math.radians(CameraRange.fov_y_deg) / 2) * size / 2
    assert opacity.sum().item() == pytest.approx(math.pi * pixels**2, rel=0.005)
    centre = (torch.arange(size) + 0.5 - size / 2) ** 2
    inside = centre[:, None] + centre[None]
    assert opacity[inside < (pixels - 1) ** 2].min() == 1
    assert opacity[inside > (pixels + 1) ** 2].max() == 0


def test_a_point_up_and_right_of_the_camera_is_drawn_up_and_right():
    scene = Scene([Primitive('ellipsoid', (0.5, 0.4, 0), (0.2,) * 3, (1, 0, 0))])
    opacity = render(scene, pose(0, 0), size=SIZE).opacity[0]
    half = SIZE // 2
    assert opacity[:half, half:].sum() == opacity.sum() > 0


def test_colour_background_and_ambient_light():
    scene, camera = Scene([Primitive('ellipsoid', (0, 0, 0), (0.8,) * 3, (0.8, 0.4, 0.2))]), pose(0, 0)
    albedo = render(scene, camera, size=SIZE, background=torch.tensor([0.0, 0.0, 1.0])).image[0]
    middle = SIZE // 2
    torch.testing.assert_close(albedo[middle, middle], torch.tensor([0.8, 0.4, 0.2]))
    torch.testing.assert_close(albedo[0, 0], torch.tensor([0.0, 0.0, 1.0]))
    dark = render(scene, camera, size=SIZE, ambient=0.3, light=torch.tensor([[0.0, 0.0, -1.0]])).image[0]
    torch.testing.assert_close(dark[middle, middle], 0.3 * torch.tensor([0.8, 0.4, 0.2]))
    lit = render(scene, camera, size=SIZE, ambient=0.3).image[0]
    torch.testing.assert_close(lit[middle, middle], torch.tensor([0.8, 0.4, 0.2]), atol=0.01, rtol=0)


def test_one_camera_or_many_give_the_same_images():
    scene, cameras = world.build_scene('a chair'), metrics.build_cameras()[:3]
    together = render(scene, cameras, size=SIZE).image
    apart = torch.cat([render(scene, camera[None], size=SIZE).image for camera in cameras])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize('height', [0.35, 0.43])
def test_rays_that_graze_a_face_hit_it(height):
    """From 10° the top of a slab is seen at 2° and 4°; every ray to a point of it ends there."""
    slab = Scene([Primitive('box', (0.0, height - 0.05, 0.0), (0.7, 0.05, 0.5), (1.0, 0.0, 0.0))])
    x, z = torch.meshgrid(torch.linspace(-0.69, 0.69, 20), torch.linspace(-0.49, 0.49, 20), indexing='ij')
    top = torch.stack([x, torch.full_like(x, height), z], -1).view(-1, 3)
    origins = pose(0, 10)[:, :3, 3].expand(len(top), 3)
    index, points = trace(slab, origins, torch.nn.functional.normalize(top - origins, dim=-1))
    assert len(index) == len(top)
    assert (points - top[index]).norm(dim=-1).max() < 0.1
    assert (points[:, 1] - height).abs().max() < 3e-3
