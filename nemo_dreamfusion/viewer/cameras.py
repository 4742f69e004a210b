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

"""The camera of a page as one of ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nemo_dreamfusion.data.cameras import orbit_angles
from nemo_dreamfusion.parts.types import CameraBatch
from nemo_dreamfusion.viewer.options import FOV_DEG, within

FARTHEST = 1e3  # world units
MAX_ASPECT = 4.0


@dataclass(frozen=True)
class Pose:
    """Where a page's camera stands: x right, y down, z into the picture, as viser has it."""

    position: tuple[float, ...]  # x, y, z, world units
    wxyz: tuple[float, ...]  # unit quaternion, camera to world
    fov_y_deg: float
    aspect: float  # width / height

    @classmethod
    def from_page(
        cls, position: Sequence[float], wxyz: Sequence[float], fov_y_rad: float, aspect: float
    ) -> Pose | None:
        """Make one of whatever the page sent; None where that is no camera."""
        place = tuple(within(value, -FARTHEST, FARTHEST, math.nan) for value in position)
        turn = tuple(within(value, -1e3, 1e3, math.nan) for value in wxyz)
        length = math.sqrt(sum(value * value for value in turn))
        if len(place) != 3 or len(turn) != 4 or not all(map(math.isfinite, place)) or not length > 1e-6:
            return None
        degrees = math.degrees(within(fov_y_rad, 0.0, math.pi, math.radians(36.0)))
        return cls(
            place,
            tuple(value / length for value in turn),
            within(degrees, *FOV_DEG, 36.0),
            within(aspect, 1 / MAX_ASPECT, MAX_ASPECT, 1.0),
        )


def camera_of(pose: Pose, height: int) -> CameraBatch:
    """Return a pose as one camera of a picture ``height`` pixels high, its width in proportion."""
    w, x, y, z = pose.wxyz
    right = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
    down = [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)]
    ahead = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]
    matrix = torch.eye(4)
    matrix[:3, :3] = torch.tensor([right, [-v for v in down], [-v for v in ahead]]).T
    position = torch.tensor(pose.position)
    matrix[:3, 3] = position
    azimuth_deg, elevation_deg = orbit_angles(position[None])
    return CameraBatch(
        camera_to_world=matrix[None],
        fov_y_rad=torch.deg2rad(torch.tensor([pose.fov_y_deg])),
        azimuth_deg=azimuth_deg,
        elevation_deg=elevation_deg,
        distance=position.norm()[None],
        height=height,
        width=max(1, round(height * pose.aspect)),
    )
