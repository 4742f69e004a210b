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

"""Camera geometry against closed forms and a written-out double loop."""

import math

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.data.cameras import (
    cameras_from_orbit,
    collate_cameras,
    look_at,
    orbit_angles,
    rays,
    wrap_degrees,
)

ANGLES = [(0, 0), (90, 0), (-90, 10), (180, 30), (37, -80), (0, 90), (50, 90), (-120, -90)]


def orbit(angles=ANGLES, distance=3.0, fov_deg=40.0, height=4, width=4, dtype=torch.float64):
    azimuth, elevation = torch.tensor(angles, dtype=dtype).unbind(-1)
    same = torch.ones_like(azimuth)
    return cameras_from_orbit(azimuth, elevation, same * distance, same * fov_deg, height, width)


@pytest.mark.parametrize(
    ('azimuth', 'elevation', 'position', 'right'),
    [
        (0, 0, (0, 0, 2), (1, 0, 0)),  # the front: on +z
        (90, 0, (2, 0, 0), (0, 0, -1)),  # positive toward +x
        (-90, 0, (-2, 0, 0), (0, 0, 1)),
        (180, 0, (0, 0, -2), (-1, 0, 0)),
        (0, 30, (0, 2 * 0.5, 2 * math.sqrt(3) / 2), (1, 0, 0)),  # positive up
        (90, 90, (0, 2, 0), (0, 0, -1)),  # over the pole the azimuth still says the roll
    ],
)
def test_orbit_known_places(azimuth, elevation, position, right):
    pose = orbit([(azimuth, elevation)], distance=2.0).camera_to_world[0]
    torch.testing.assert_close(pose[:3, 3], torch.tensor(position, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(pose[:3, 0], torch.tensor(right, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(pose[:3, 2], pose[:3, 3] / 2.0, atol=1e-12, rtol=0)  # looks at the origin, down -z


def test_rotation_has_determinant_one():
    cameras = orbit()
    targets = torch.randn(len(cameras), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for pose in (cameras.camera_to_world, look_at(cameras.camera_to_world[:, :3, 3], 0.1 * targets)):
        rotation = pose[:, :3, :3]
        torch.testing.assert_close(rotation.det(), torch.ones(len(cameras), dtype=torch.float64))
        eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
        torch.testing.assert_close(rotation.mT @ rotation, eye, atol=1e-12, rtol=0)
        torch.testing.assert_close(pose[:, 3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64).expand(len(pose), 4))


def test_a_point_at_the_objects_left_is_seen_where_it_stands():
    """From the front a point on +x is right of the middle; from the back it is left; a point on +y is above."""
    front, back = (rays(orbit([angles], height=5, width=5)) for angles in ((0, 0), (180, 0)))
    for bundle, side in ((front, 1), (back, -1)):
        directions = bundle.directions.view(5, 5, 3)
        assert directions[2, 4, 0] * side > 0.1 and directions[2, 0, 0] * side < -0.1
        assert directions[0, 2, 1] > 0.1 and directions[4, 2, 1] < -0.1  # row 0 is the top


def test_look_at_agrees_with_the_orbit_away_from_the_poles():
    cameras = orbit([a for a in ANGLES if abs(a[1]) < 90])
    position = cameras.camera_to_world[:, :3, 3]
    torch.testing.assert_close(look_at(position, torch.zeros_like(position)), cameras.camera_to_world)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_look_at_is_safe_at_the_poles(dtype):
    position = torch.tensor([[0, 3, 0], [0, -3, 0], [0, 0, 0]], dtype=dtype)
    pose = look_at(position, torch.zeros_like(position))
    assert pose.isfinite().all()
    torch.testing.assert_close(pose[:, :3, :3].det(), torch.ones(3, dtype=dtype))
    torch.testing.assert_close(pose[:2, :3, 0], torch.tensor([[1, 0, 0], [1, 0, 0]], dtype=dtype))
    torch.testing.assert_close(pose[0, :3, 1], torch.tensor([0, 0, -1], dtype=dtype))  # the front is at the foot
    sideways = look_at(torch.tensor([[2, 0, 0]], dtype=dtype), torch.zeros(1, 3, dtype=dtype), (1.0, 0.0, 0.0))
    torch.testing.assert_close(sideways[0, :3, :3].det(), torch.tensor(1, dtype=dtype))


def test_pole_is_the_limit_of_the_climb():
    almost, there = orbit([(50, 89.999)]).camera_to_world, orbit([(50, 90)]).camera_to_world
    torch.testing.assert_close(almost, there, atol=1e-4, rtol=0)


def test_orbit_angles_invert_the_position():
    given = torch.tensor([(0, 0), (90, 45), (-179, -30), (-180, 10)], dtype=torch.float64)
    azimuth, elevation = orbit_angles(orbit(given.tolist()).camera_to_world[:, :3, 3])
    torch.testing.assert_close(torch.stack([azimuth, elevation], -1), given)


def test_wrap_degrees_stays_inside():
    angles = torch.tensor([-180.0, 180.0, 540.0, 190.0, -190.0, -1e-6 - 180.0, 0.0])
    wrapped = wrap_degrees(angles)
    assert ((wrapped >= -180) & (wrapped < 180)).all()
    torch.testing.assert_close(wrapped[:5], torch.tensor([-180.0, -180.0, -180.0, -170.0, 170.0]))


def test_rays_match_a_double_loop():
    """Pixel by pixel: through the centre, square pixels, row-major over (B, H, W)."""
    cameras = orbit([(20, 15), (-100, 40)], height=3, width=5, fov_deg=50.0)
    bundle = rays(cameras)
    assert bundle.image_shape == (2, 3, 5) and len(bundle) == 2 * 3 * 5
    expected = []
    for b in range(2):
        focal = (3 / 2) / math.tan(math.radians(50.0) / 2)  # pixels
        for row in range(3):
            for column in range(5):
                local = torch.tensor([column + 0.5 - 5 / 2, 3 / 2 - (row + 0.5), -focal], dtype=torch.float64)
                expected.append(cameras.camera_to_world[b, :3, :3] @ (local / local.norm()))
    torch.testing.assert_close(bundle.directions, torch.stack(expected))
    torch.testing.assert_close(bundle.directions.norm(dim=-1), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(bundle.origins.view(2, 15, 3)[:, 0], cameras.camera_to_world[:, :3, 3])


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_rays_stay_float32_under_autocast(half):
    cameras = orbit(dtype=torch.float32)
    expected = rays(cameras)
    with torch.autocast('cpu', half):
        found = rays(cameras)
    assert torch.equal(found.directions, expected.directions) and torch.equal(found.origins, expected.origins)


@pytest.mark.gpu
def test_tf32_does_not_move_rays(monkeypatch):
    cameras = orbit(dtype=torch.float32, height=64, width=64)
    monkeypatch.setattr(torch.backends.cuda.matmul, 'allow_tf32', True)
    there = rays(cameras.to('cuda')).directions.cpu()
    assert (there - rays(cameras).directions).abs().max() < 1e-6


def test_middle_ray_goes_through_the_origin():
    bundle = rays(orbit(height=5, width=7))
    middle = bundle.directions.view(len(ANGLES), 5, 7, 3)[:, 2, 3]
    torch.testing.assert_close(middle * 3.0, -bundle.origins.view(len(ANGLES), 5, 7, 3)[:, 2, 3], atol=1e-12, rtol=0)


def test_collate_and_slice_are_inverse():
    cameras = orbit()
    again = collate_cameras([cameras[i : i + 1] for i in range(len(cameras))])
    assert len(again) == len(cameras)
    torch.testing.assert_close(again.camera_to_world, cameras.camera_to_world)
    with refusal('cameras', NO_VALUE, 'image sizes', 'batch size to 1'):
        collate_cameras([orbit(height=4), orbit(height=5)])


def test_refuses_an_image_of_no_pixels():
    with refusal('height', 0, 'at least 1'):
        orbit(height=0)
