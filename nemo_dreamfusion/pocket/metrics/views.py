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

"""Compare an object with the true scene of its prompt over 16 views that no training step saw.

Shapes: V = 16 views, first all at elevation 10°, then all at 40°, each at azimuths 0°, 45° … 315°.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.parts.images import compute_psnr, compute_silhouette_iou
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import CameraRange, Render, look_at_origin, render

AZIMUTHS_DEG = tuple(range(0, 360, 45))
ELEVATIONS_DEG = (10, 40)
DISTANCE = CameraRange().mean_distance
FOV_Y_DEG = CameraRange.fov_y_deg
VIEWS_DEG = tuple((azimuth, elevation) for elevation in ELEVATIONS_DEG for azimuth in AZIMUTHS_DEG)
_FACES_DEG = {'front': 0, 'side': 90, 'back': 180}  # azimuths


class RendersCameras(Protocol):
    """What is looked at, such as a ``DreamFusion``."""

    def render_cameras(self, cameras: CameraBatch) -> RenderOutput:
        """Render B views, without a gradient."""


def build_cameras() -> Tensor:
    """Return the camera-to-world poses of the 16 views: [16, 4, 4]. The vertical angle of view is ``FOV_Y_DEG``."""
    azimuth, elevation = torch.tensor(VIEWS_DEG, dtype=torch.float32).T
    return look_at_origin(azimuth, elevation, torch.full_like(azimuth, DISTANCE))


def render_object(model: RendersCameras, size: int) -> Render:
    """Render the 16 views of an object as it stands: image [16, size, size, 3], opacity [16, size, size], on the host."""
    azimuth_deg, elevation_deg = torch.tensor(VIEWS_DEG, dtype=torch.float32).T
    same = torch.ones(len(azimuth_deg))
    seen = model.render_cameras(
        cameras_from_orbit(azimuth_deg, elevation_deg, same * DISTANCE, same * FOV_Y_DEG, size, size)
    )
    return Render(image=seen.image.detach().cpu().float(), opacity=seen.opacity[..., 0].detach().cpu().float())


@lru_cache(maxsize=64)
def render_truth(prompt: str, size: int) -> Render:
    """Render the albedo of a prompt's true scene on white: image [16, size, size, 3], opacity [16, size, size]; cached."""
    with torch.no_grad():
        return render(world.build_scene(prompt), build_cameras(), size=size, fov_y_deg=FOV_Y_DEG, ambient=1.0)


def score(
    images: Tensor,  # [16, H, H, 3] albedo on white, in [0, 1]
    opacity: Tensor,  # [16, H, H]
    prompt: str,
) -> dict[str, float | None]:
    """Compare the 16 views of an object with those of the true scene of its prompt.

    Args:
        images: albedo on white, in [0, 1].
        opacity: in [0, 1].
        prompt: a prompt of the world.

    Returns:
        The scores by name.

        - ``iou``: silhouette intersection over union, mean over the views (opacity above one half).
        - ``psnr_db``: from the mean squared error over all views.
        - ``view_accuracy``: share of the front, side and back views that are nearest to their own true view among the
          true front, side and back; None for objects without a front, and pairs.

    Raises:
        ValueError: for other shapes, or a prompt without a scene.
    """
    _check(images, opacity)
    images, opacity = images.detach().cpu().float(), opacity.detach().cpu().float()
    truth = render_truth(world.normalize(prompt), images.shape[1])
    return {
        'iou': compute_silhouette_iou(opacity, truth.opacity),
        'psnr_db': compute_psnr(images, truth.image),
        'view_accuracy': compute_view_accuracy(images, truth.image) if _has_front(prompt) else None,
    }


def compute_view_accuracy(images: Tensor, truth: Tensor) -> float:
    """Return the share of front, side and back views [16, H, H, 3] that are nearest to their own true view."""
    right = []
    for elevation in ELEVATIONS_DEG:
        index = [VIEWS_DEG.index((azimuth, elevation)) for azimuth in _FACES_DEG.values()]
        errors = (images[index, None] - truth[None, index]).square().mean((2, 3, 4))  # [3, 3]
        right += [errors[i].argmin().item() == i for i in range(len(index))]
    return sum(right) / len(right)


def _has_front(prompt: str) -> bool:
    return not world.read_phrase(world.normalize(prompt)).relation and world.has_front(prompt)


def _check(images: Tensor, opacity: Tensor) -> None:
    views = len(VIEWS_DEG)
    square = (
        images.ndim == 4 and images.shape[0] == views and images.shape[1] == images.shape[2] and images.shape[3] == 3
    )
    if not square or opacity.shape != images.shape[:3]:
        raise ValueError(
            f'images {tuple(images.shape)} and opacity {tuple(opacity.shape)}: '
            f'expected [{views}, H, H, 3] and [{views}, H, H], views as in VIEWS_DEG'
        )
