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

"""Pictures around an object, in colour and of its shape alone, white behind it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.export.stills import draw_strip, label_view, save_still, to_uint8
from nemo_dreamfusion.metrics.base import OVERVIEW
from nemo_dreamfusion.parts.checks import check_positive, check_range
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.types import CameraBatch

KINDS = {'colour': 'albedo', 'geometry': 'textureless'}  # of a picture: its shading
DISTANCE, FOV_DEG = 3.7, 36.0  # of an object whose archive has no test views


@dataclass(frozen=True)
class OrbitPictures:
    """Views evenly around an object at one elevation, from the front on; of each one picture of each of ``KINDS``.

    Raises:
        ValueError: for a value out of range.
    """

    azimuths: int
    elevation_deg: float
    size: int  # pixels of a side
    distance: float | None  # world units; None: of the object's own test views
    fov_deg: float | None  # likewise

    def __post_init__(self) -> None:
        check_range('metric.azimuths', self.azimuths, 1, 360, integer=True)
        check_range('metric.elevation_deg', self.elevation_deg, -90, 90)
        check_range('metric.size', self.size, 16, 1024, integer=True)
        if self.distance is not None:
            check_positive('metric.distance', self.distance)
        if self.fov_deg is not None:
            check_range('metric.fov_deg', self.fov_deg, 1, 170)

    def settings(self) -> dict[str, Any]:
        """Return what the pictures depend on, beside the object."""
        return {**asdict(self), 'background': 'white', 'kinds': dict(KINDS)}

    def cameras(self, model: Any) -> CameraBatch:
        """Return the cameras for a model: B = azimuths."""
        own = ((model.options.get('data') or {}).get('test')) or {}
        distance = self.distance or own.get('distance') or DISTANCE * model.nerf.bound
        fov_deg = self.fov_deg or own.get('fov_deg') or FOV_DEG
        same = torch.ones(self.azimuths)
        azimuth_deg = torch.arange(self.azimuths) * (360.0 / self.azimuths)
        return cameras_from_orbit(
            azimuth_deg, same * self.elevation_deg, same * distance, same * fov_deg, self.size, self.size
        )

    def render(self, model: Any, folder: Path) -> dict[str, Any]:
        """Write ``colour-000.png``, ``geometry-000.png``, ... and both rows as one picture; return the views."""
        cameras = self.cameras(model)
        views, rows = [], []
        for kind, shading in KINDS.items():
            images = []
            for i in range(len(cameras)):
                camera = cameras[i : i + 1]
                images.append(to_uint8(render_on_white(model, camera, shading)))
                file = f'{kind}-{i:03d}.png'
                save_still(images[-1], folder / file)
                views.append({'file': file, 'kind': kind, **_place(camera)})
            labels = [
                f'{kind}, {label_view(*at)}'
                for at in zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
            ]
            rows.append(np.asarray(draw_strip(np.stack(images), labels)))
        with atomic_path(folder / OVERVIEW) as temporary:
            Image.fromarray(np.concatenate(rows)).save(temporary)
        return {'views': views}


@torch.no_grad()
def render_on_white(model: Any, camera: CameraBatch, shading: Any) -> Tensor:
    """Return one view [H, W, 3] with white in the background's place, lit from the camera."""
    seen = model.render_cameras(camera, shading=shading)
    behind = 1 - seen.opacity[0]
    image = seen.image[0] + behind * (1 - model.render_background(camera)[0])
    return image.detach().float().cpu().clamp(0, 1)


def _place(camera: CameraBatch) -> dict[str, float]:
    return {
        'azimuth_deg': round(camera.azimuth_deg.item(), 4),
        'elevation_deg': round(camera.elevation_deg.item(), 4),
        'distance': round(camera.distance.item(), 6),
        'fov_deg': round(torch.rad2deg(camera.fov_y_rad).item(), 4),
    }
