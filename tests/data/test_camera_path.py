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

"""Camera paths: both forms of the file, where the cameras stand, and what is refused."""

import json
import math

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.data.camera_path import read_camera_path
from nemo_dreamfusion.data.cameras import cameras_from_orbit

pytestmark = pytest.mark.unit

PLACE = {'azimuth_deg': 30, 'elevation_deg': 10.5, 'distance': 3}
# nerfstudio, z up: the camera stands at -y, looks along +y, and up is +z
FRONT = [1, 0, 0, 0, 0, 0, -1, -3, 0, 1, 0, 0.5, 0, 0, 0, 1]


def write(folder, content):
    path = folder / 'path.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')
    return path


def nerfstudio(*, content=None, **view):
    one = {'camera_to_world': FRONT, 'fov': 50, 'aspect': 1.5, **view}
    return {'camera_type': 'perspective', 'fps': 30, 'camera_path': [one], **(content or {})}


def test_places_around_the_object(tmp_path):
    path = read_camera_path(write(tmp_path, [PLACE, {**PLACE, 'azimuth_deg': -90, 'fov_deg': 60}]), 32)
    angles = (torch.tensor(values) for values in ([30.0, -90.0], [10.5, 10.5], [3.0, 3.0], [36.0, 60.0]))
    wanted = cameras_from_orbit(*angles, 32, 32)
    assert torch.equal(path.cameras.camera_to_world, wanted.camera_to_world)
    assert torch.equal(path.cameras.fov_y_rad, wanted.fov_y_rad)
    assert (path.cameras.height, path.cameras.width, path.fps) == (32, 32, 24)


def test_a_path_of_nerfstudio_is_turned_to_our_axes(tmp_path):
    path = read_camera_path(write(tmp_path, nerfstudio()), 32)
    pose = path.cameras.camera_to_world[0]
    assert pose[:3, 3].tolist() == pytest.approx([0, 0.5, 3])  # its -y is our front, its z our y
    assert pose[:3, 1].tolist() == pytest.approx([0, 1, 0]) and pose[:3, 2].tolist() == pytest.approx([0, 0, 1])
    assert path.cameras.azimuth_deg.item() == pytest.approx(0)
    assert path.cameras.fov_y_rad.item() == pytest.approx(math.radians(50))
    assert (path.cameras.height, path.cameras.width, path.fps) == (32, 48, 30)


def test_rows_may_be_lists_and_the_aspect_may_be_that_of_the_render(tmp_path):
    rows = [FRONT[i : i + 4] for i in range(0, 16, 4)]
    content = nerfstudio(camera_to_world=rows, content={'render_width': 200, 'render_height': 100})
    del content['camera_path'][0]['aspect']
    path = read_camera_path(write(tmp_path, content), 32)
    assert path.cameras.width == 64 and path.cameras.distance.item() == pytest.approx(math.hypot(3, 0.5))


MIRROR = [-1, *FRONT[1:]]
SCALED = [2 * value for value in FRONT]


@pytest.mark.parametrize(
    ('content', 'key', 'value', 'advice'),
    [
        ([{**PLACE, 'elevation_deg': 95}], 'camera_path[0].elevation_deg', 95, '90'),
        ([PLACE, {**PLACE, 'distance': 0}], 'camera_path[1].distance', 0, 'greater than 0'),
        ([{**PLACE, 'azimuth_deg': '30'}], 'camera_path[0].azimuth_deg', '30', 'number'),
        ([{**PLACE, 'fov_deg': 180}], 'camera_path[0].fov_deg', 180, '170'),
        ([7], 'camera_path[0]', 7, 'azimuth_deg'),
        ([], 'camera_path', '0 cameras', '10000'),
        (nerfstudio(fov=None), 'camera_path[0].fov', None, '170'),
        (nerfstudio(camera_to_world=FRONT[:12]), 'camera_path[0].camera_to_world', FRONT[:12], '16 numbers'),
        (nerfstudio(camera_to_world=MIRROR), 'camera_path[0].camera_to_world', MIRROR, 'row by row'),
        (nerfstudio(camera_to_world=SCALED), 'camera_path[0].camera_to_world', SCALED, 'row by row'),
        (nerfstudio(content={'camera_type': 'fisheye'}), 'camera_path: camera_type', 'fisheye', 'perspective'),
        (nerfstudio(content={'fps': 0}), 'camera_path: fps', 0, '120'),
    ],
)
def test_a_wrong_camera_is_refused_by_its_place(tmp_path, content, key, value, advice):
    with refusal(key, value, advice):
        read_camera_path(write(tmp_path, content), 32)


@pytest.mark.parametrize('content', ['{', '', '3', '{"camera_path": 3}', '{"keyframes": []}'])
def test_another_file_is_refused(tmp_path, content):
    path = write(tmp_path, content)
    with refusal('camera_path', str(path), 'azimuth_deg'):
        read_camera_path(path, 32)


def test_a_missing_file_and_a_missing_or_unknown_key_are_refused(tmp_path):
    with refusal('camera_path', str(tmp_path / 'no.json'), 'azimuth_deg'):
        read_camera_path(tmp_path / 'no.json', 32)
    with pytest.raises(ValueError, match=r'camera_path\[0\]\.distance'):
        read_camera_path(write(tmp_path, [{'azimuth_deg': 0, 'elevation_deg': 0}]), 32)
    with pytest.raises(ValueError, match=r'camera_path\[0\]\.azimuth_deg'):
        read_camera_path(write(tmp_path, [{**PLACE, 'azimut_deg': 0}]), 32)
