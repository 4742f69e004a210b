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

"""A user's own path of cameras, read from a file of JSON.

Two forms are taken. A list of places around the object:

    [{"azimuth_deg": 0, "elevation_deg": 15, "distance": 3.7}, {"azimuth_deg": 30, "elevation_deg": 20, "distance": 3}]

in which ``fov_deg`` may stand too, and nerfstudio's camera-path file: ``camera_path`` with ``camera_to_world`` (16 numbers,
row-major), ``fov`` (vertical, degrees) and ``aspect``, and ``fps``. nerfstudio's world has z up: its -y is our front (+z).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.data.cameras import cameras_from_orbit, orbit_angles
from nemo_dreamfusion.parts.checks import check_keys, check_range, check_types, refuse
from nemo_dreamfusion.parts.types import CameraBatch

NAME = 'camera_path'
FPS, FOV_DEG = 24, 36.0  # where a file says nothing
MOST = 10_000  # cameras
_FORMS = (
    'a list [{"azimuth_deg": 0, "elevation_deg": 15, "distance": 3.7}, ...] or a camera path of nerfstudio, as JSON'
)
_PLACE = {'azimuth_deg': float, 'elevation_deg': float, 'distance': float, 'fov_deg': float}
# of nerfstudio's world (z up) to ours (y up): (x, y, z) -> (x, z, -y)
_Y_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class CameraPath:
    """The cameras of a video."""

    cameras: CameraBatch
    fps: int


def read_camera_path(path: str | Path, size: int) -> CameraPath:
    """Read a camera path.

    Args:
        path: of the JSON file.
        size: pixels of an image's height; its width follows from the file's aspect (a list's images are square).

    Raises:
        ValueError: naming the key within the file, its value, and what it must be.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        refuse(NAME, str(path), _FORMS, f'It cannot be read ({error}).')
    if isinstance(content, list):
        return CameraPath(_read_places(content, size), FPS)
    if isinstance(content, Mapping) and isinstance(content.get('camera_path'), list):
        return _read_nerfstudio(content, size)
    refuse(NAME, str(path), _FORMS)


def _read_places(places: list, size: int) -> CameraBatch:
    _check_count(places)
    for i, place in enumerate(places):
        name = f'{NAME}[{i}]'
        _check_mapping(name, place)
        check_keys(name, place, _PLACE)
        for key in ('azimuth_deg', 'elevation_deg', 'distance'):
            if key not in place:
                raise ValueError(f'{name}.{key} is missing: each place has azimuth_deg, elevation_deg and distance.')
        check_types(name, place, _PLACE)
        check_range(f'{name}.elevation_deg', place['elevation_deg'], -90, 90)
        check_range(f'{name}.distance', place['distance'], 0, 1000, low_open=True)
        check_range(f'{name}.fov_deg', place.get('fov_deg', FOV_DEG), 1, 170)
    azimuth, elevation, distance, fov = (torch.tensor([float(p.get(key, FOV_DEG)) for p in places]) for key in _PLACE)
    return cameras_from_orbit(azimuth, elevation, distance, fov, size, size)


def _read_nerfstudio(content: Mapping[str, Any], size: int) -> CameraPath:
    views, kind = content['camera_path'], content.get('camera_type', 'perspective')
    if kind != 'perspective':
        refuse(f'{NAME}: camera_type', kind, "'perspective'", 'Export the path again with that type of camera.')
    _check_count(views)
    fps = check_range(f'{NAME}: fps', content.get('fps', FPS), 1, 120)
    poses, angles = [], []
    for i, view in enumerate(views):
        name = f'{NAME}[{i}]'
        _check_mapping(name, view)
        poses.append(_read_pose(f'{name}.camera_to_world', view.get('camera_to_world')))
        angles.append(float(check_range(f'{name}.fov', view.get('fov'), 1, 170)))
    aspect = check_range(f'{NAME}[0].aspect', views[0].get('aspect', _aspect(content)), 0.1, 10)
    pose = _Y_UP @ torch.stack(poses)
    azimuth_deg, elevation_deg = orbit_angles(pose[:, :3, 3])
    cameras = CameraBatch(
        camera_to_world=pose,
        fov_y_rad=torch.deg2rad(torch.tensor(angles)),
        azimuth_deg=azimuth_deg,
        elevation_deg=elevation_deg,
        distance=pose[:, :3, 3].norm(dim=-1),
        height=size,
        width=max(1, round(size * aspect)),
    )
    return CameraPath(cameras, round(fps))


def _read_pose(name: str, value: Any) -> Tensor:
    """Return 16 numbers, or 4 rows of 4, as a pose [4, 4] with a right-handed rotation."""
    rows = value if isinstance(value, list) else []
    numbers = [number for row in rows for number in (row if isinstance(row, list) else [row])]
    if len(numbers) != 16 or not all(type(number) in (int, float) for number in numbers):
        refuse(name, value, 'a list of 16 numbers, the rows of camera-to-world one after the other')
    pose = torch.tensor(numbers, dtype=torch.float64).view(4, 4)
    rotation, identity = pose[:3, :3], torch.eye(3, dtype=torch.float64)
    straight = torch.allclose(rotation @ rotation.mT, identity, atol=1e-3) and torch.linalg.det(rotation) > 0
    last = torch.allclose(pose[3], torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
    if not (pose.isfinite().all() and straight and last):
        advice = 'Write it row by row: right, up, back and place are its columns.'
        refuse(name, value, 'a finite rotation (without scale or mirror) and a place, over a last row 0 0 0 1', advice)
    return pose.float()


def _aspect(content: Mapping[str, Any]) -> float:
    height = check_range(f'{NAME}: render_height', content.get('render_height', 1), 1, 10**5)
    return check_range(f'{NAME}: render_width', content.get('render_width', height), 1, 10**5) / height


def _check_count(cameras: list) -> None:
    if not 1 <= len(cameras) <= MOST:
        refuse(NAME, f'{len(cameras)} cameras', f'a file of 1 to {MOST} cameras')


def _check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        refuse(name, value, 'a mapping of keys to values', f'The file is {_FORMS}.')
