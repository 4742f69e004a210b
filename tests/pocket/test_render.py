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

"""The renderer and the oracle against closed forms."""

import math

import pytest
import torch

from nemo_dreamfusion.pocket import metrics as oracle
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import CameraRange, look_at_origin, render
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

pytestmark = pytest.mark.unit

SIZE = 32


def pose(azimuth_deg, elevation_deg, distance=3.2):
    return look_at_origin(*(torch.tensor([float(v)]) for v in (azimuth_deg, elevation_deg, distance)))


def true_render(prompt, size=SIZE):
    return oracle.true_views(world.normalised(prompt), size)


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
    scene, cameras = world.scene('a chair'), oracle.oracle_cameras()[:3]
    together = render(scene, cameras, size=SIZE).image
    apart = torch.cat([render(scene, camera[None], size=SIZE).image for camera in cameras])
    torch.testing.assert_close(together, apart)


def test_oracle_has_sixteen_views():
    assert oracle.oracle_cameras().shape == (16, 4, 4)
    assert oracle.oracle_views()[0] == (0, 10) and oracle.oracle_views()[10] == (90, 40)


@pytest.mark.parametrize('prompt', ['a duck', 'a red cube on top of a blue cylinder'])
def test_true_scene_scores_best(prompt):
    truth = true_render(prompt)
    result = oracle.score(truth.image, truth.opacity, prompt)
    assert result['iou'] == 1 and result['retrieval_rank'] == 1 and result['psnr_db'] == pytest.approx(100)
    assert result['view_accuracy'] == (1 if prompt == 'a duck' else None)


def test_duck_turned_round_has_its_views_wrong():
    truth = true_render('a duck')
    turned = [(i // 8) * 8 + (i % 8 + 4) % 8 for i in range(16)]
    result = oracle.score(truth.image[turned], truth.opacity[turned], 'a duck')
    assert result['iou'] < 0.9 and result['view_accuracy'] == 0


def test_another_object_is_retrieved_as_itself():
    truth = true_render('a house')
    result = oracle.score(truth.image, truth.opacity, 'a duck')
    assert result['retrieval_rank'] > 1 and result['iou'] < 0.8 and result['psnr_db'] < 20


def test_nothing_scores_zero():
    result = oracle.score(torch.ones(16, SIZE, SIZE, 3), torch.zeros(16, SIZE, SIZE), 'a duck')
    assert result['iou'] == 0


def test_iou_is_intersection_over_union():
    a, b = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    a[0, :2], b[0, :, :2] = 1, 1
    assert oracle.silhouette_iou(a, b) == pytest.approx(4 / 12)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match='expected'):
        oracle.score(torch.ones(8, SIZE, SIZE, 3), torch.zeros(8, SIZE, SIZE), 'a duck')
