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

"""The random and the orbit cameras: ranges, seeds, the angles that they claim."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from refusals import refusal

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.data.samplers import OrbitCameras, RandomCameras
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.parts.build import build


def sampler(**changes):
    options = dict(
        batch_size=4000,
        distance_range=[3.0, 3.5],
        elevation_range_deg=[-10, 45],
        azimuth_range_deg=[-180, 180],
        fov_range_deg=[30, 42],
    )
    return RandomCameras(**{**options, **changes})


def sample(seed=0, **changes):
    return sampler(**changes).sample(torch.Generator().manual_seed(seed), 8, 8)


def true_angles(cameras):
    x, y, z = cameras.camera_to_world[:, :3, 3].double().unbind(-1)
    distance = (x * x + y * y + z * z).sqrt()
    return torch.rad2deg(torch.atan2(x, z)), torch.rad2deg(torch.asin(y / distance)), distance


def test_ranges_are_filled_and_kept():
    cameras = sample()
    for values, low, high in (
        (cameras.distance, 3.0, 3.5),
        (cameras.elevation_deg, -10, 45),
        (cameras.azimuth_deg, -180, 180),
        (torch.rad2deg(cameras.fov_y_rad), 30, 42),
    ):
        share = (values - low) / (high - low)
        assert -1e-4 < share.min() < 0.01 and 0.99 < share.max() < 1 + 1e-4
        assert abs(share.mean() - 0.5) < 4 * (1 / math.sqrt(12 * 4000))  # four standard errors of a uniform mean


def test_every_image_has_its_own_angle_of_view():
    assert len(sample(batch_size=8).fov_y_rad.unique()) == 8


def test_new_cameras_at_each_step_and_the_same_again_from_the_seed():
    generator = torch.Generator().manual_seed(3)
    cameras = sampler(batch_size=2)
    first, saved = cameras.sample(generator, 8, 8), generator.get_state()
    second = cameras.sample(generator, 16, 16)
    assert not torch.equal(first.camera_to_world, second.camera_to_world)
    generator.set_state(saved)  # what a checkpoint does
    assert torch.equal(cameras.sample(generator, 16, 16).camera_to_world, second.camera_to_world)


def test_draws_do_not_depend_on_the_options():
    """A generator stands at the same place after a step whatever was drawn: shares and jitters may be scheduled."""
    states = []
    for changes in ({}, {'overhead_probability': 0.5, 'jitter_position': 0.1, 'uniform_sphere_rate': 0.5}):
        generator = torch.Generator().manual_seed(0)
        sampler(batch_size=5, **changes).sample(generator, 8, 8)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_angles_are_those_of_the_final_position():
    cameras = sample(jitter_position=0.3, jitter_target=0.2, jitter_up=0.02)
    azimuth, elevation, distance = true_angles(cameras)
    torch.testing.assert_close(cameras.azimuth_deg.double(), azimuth, atol=1e-3, rtol=0)
    torch.testing.assert_close(cameras.elevation_deg.double(), elevation, atol=1e-3, rtol=0)
    torch.testing.assert_close(cameras.distance.double(), distance, atol=1e-5, rtol=0)


def test_jittered_poses_are_rotations_over_the_poles_too():
    cameras = sample(elevation_range_deg=[-90, 90], jitter_position=0.1, jitter_target=0.2, jitter_up=0.02)
    flat = sample(elevation_range_deg=[90, 90])
    for pose in (cameras.camera_to_world, flat.camera_to_world):
        rotation = pose[:, :3, :3]
        torch.testing.assert_close(rotation.det(), torch.ones(len(pose)))
        torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)


def test_without_jitter_the_camera_looks_at_the_origin_with_a_level_horizon():
    cameras = sample()
    pose = cameras.camera_to_world
    torch.testing.assert_close(pose[:, :3, 2] * cameras.distance[:, None], pose[:, :3, 3], atol=1e-5, rtol=0)
    torch.testing.assert_close(pose[:, 1, 0], torch.zeros(len(pose)), atol=1e-6, rtol=0)  # right has no y


def test_overhead_share():
    elevation = sample(overhead_probability=0.25, overhead_elevation_range_deg=[60, 90]).elevation_deg
    assert abs((elevation >= 59.99).float().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert not ((elevation > 45.01) & (elevation < 59.99)).any()


def test_uniform_sphere_rate_spreads_over_the_area():
    """On a sphere equal bands of height hold equal areas: sin(elevation) is uniform, its mean is the middle."""
    height = torch.sin(torch.deg2rad(sample(uniform_sphere_rate=1.0, elevation_range_deg=[0, 90]).elevation_deg))
    assert abs(height.mean() - 0.5) < 4 / math.sqrt(12 * 4000)
    assert abs((height < 0.25).float().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize(
    ('name', 'value', 'allowed'),
    [
        ('batch_size', 0, 'at least 1'),
        ('distance_range', [3, 2], 'first <= last'),
        ('distance_range', 3.0, 'first <= last'),
        ('elevation_range_deg', [-100, 0], 'at least -90'),
        ('fov_range_deg', [0, 30], 'at least 1'),
        ('overhead_probability', 1.5, 'at most 1'),
        ('jitter_up', -1, 'at least 0'),
    ],
)
def test_refuses_what_makes_no_camera(name, value, allowed):
    with refusal(name, value, allowed):
        sampler(**{name: value})


def orbit(views=8):
    return OrbitCameras(views=views, elevation_deg=15, distance=3.2, fov_deg=36, height=6, width=4)


def test_orbit_items_stand_evenly_from_the_front():
    cameras = orbit()
    assert len(cameras) == 8
    azimuths = [cameras[i].azimuth_deg.item() for i in range(8)]
    assert azimuths == [0, 45, 90, 135, -180, -135, -90, -45]
    single = cameras[2]
    assert len(single) == 1 and (single.height, single.width) == (6, 4)
    azimuth, elevation, distance = true_angles(single)
    assert (azimuth.item(), elevation.item(), distance.item()) == pytest.approx((90, 15, 3.2), abs=1e-4)
    torch.testing.assert_close(cameras.all().camera_to_world[2:3], single.camera_to_world)


def test_orbit_ends():
    with pytest.raises(IndexError):
        orbit()[8]
    assert len(list(orbit(3))) == 3


@pytest.mark.parametrize('views', [2, 4])
def test_a_ring_stands_evenly_around_one_random_camera(views):
    """Every ring's cameras are where a camera drawn there would be, and share all but the azimuth."""
    options = dict(distance_range=[3.0, 3.5], elevation_range_deg=[-10, 45], fov_range_deg=[30, 42])
    rings = RandomCameras(views=views, batch_size=3 * views, **options)
    found = rings.sample(torch.Generator().manual_seed(0), 8, 8)
    first = RandomCameras(batch_size=3, **options).sample(torch.Generator().manual_seed(0), 8, 8)
    torch.testing.assert_close(found.camera_to_world[::views], first.camera_to_world)
    turns = (found.azimuth_deg.view(3, views) - first.azimuth_deg[:, None]) % 360
    torch.testing.assert_close(turns, (torch.arange(views) * 360.0 / views).expand(3, -1), rtol=0, atol=1e-3)
    expected = cameras_from_orbit(
        found.azimuth_deg, found.elevation_deg, found.distance, torch.rad2deg(found.fov_y_rad), 8, 8
    )
    torch.testing.assert_close(found.camera_to_world, expected.camera_to_world, rtol=0, atol=1e-5)
    for name in ('elevation_deg', 'distance', 'fov_y_rad'):
        assert torch.equal(getattr(found, name), getattr(first, name).repeat_interleave(views)), name
    with refusal('batch_size', 3 * views + 1, 'views'):
        RandomCameras(views=views, batch_size=3 * views + 1, **options)


@pytest.mark.parametrize('choice', ['antithetic', 'pocket_antithetic'])
def test_antithetic_cameras_leave_out_what_opposite_sides_share_with_opposite_signs(choice):
    """A pair's mean of cos(azimuth) is 0, where that of two free cameras has the variance 1/4; cos(2 azimuth) keeps 1/2."""
    train = load_config(overrides=[f'model/data={choice}']).model.data.train
    cameras = build('model.data.train', {**OmegaConf.to_container(train), 'batch_size': 4000}, RandomCameras)
    found = cameras.sample(torch.Generator().manual_seed(0), 8, 8)
    assert train.batch_size == 2
    first, second = found.camera_to_world[:, :3, 3].view(-1, 2, 3).unbind(1)
    torch.testing.assert_close(second, first * torch.tensor([-1.0, 1.0, -1.0]), rtol=0, atol=1e-5)
    azimuth = torch.deg2rad(found.azimuth_deg).view(-1, 2)
    assert azimuth.cos().mean(1).abs().max() < 1e-5
    assert (2 * azimuth).cos().mean(1).var().item() == pytest.approx(0.5, abs=0.03)
