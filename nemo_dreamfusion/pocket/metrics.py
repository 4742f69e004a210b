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

"""The oracle: how near an object is to the true scene of its prompt, over 16 held-out views.

Shapes: V = 16 views, first all at elevation 10°, then all at 40°, each at azimuths 0°, 45° … 315°.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import CameraRange, Render, look_at_origin, render

AZIMUTHS_DEG = tuple(range(0, 360, 45))
ELEVATIONS_DEG = (10, 40)
DISTANCE = CameraRange().mean_distance
FOV_Y_DEG = CameraRange.fov_y_deg
_FACES = {'front': 0, 'side': 90, 'back': 180}  # azimuths


def oracle_views() -> list[tuple[int, int]]:
    """(azimuth, elevation) in degrees of the 16 views, in order."""
    return [(azimuth, elevation) for elevation in ELEVATIONS_DEG for azimuth in AZIMUTHS_DEG]


def oracle_cameras() -> Tensor:
    """Camera-to-world poses of the 16 views: [16, 4, 4]. The angle of view is FOV_Y_DEG."""
    azimuth, elevation = torch.tensor(oracle_views(), dtype=torch.float32).T
    return look_at_origin(azimuth, elevation, torch.full_like(azimuth, DISTANCE))


@lru_cache(maxsize=64)
def true_views(prompt: str, size: int) -> Render:
    """Albedo on white of the prompt's true scene: image [16, size, size, 3], opacity [16, size, size]. Kept in memory."""
    with torch.no_grad():
        return render(world.scene(prompt), oracle_cameras(), size=size, fov_y_deg=FOV_Y_DEG, ambient=1.0)


def score(
    images: Tensor,  # [16, H, H, 3] albedo on white, in [0, 1]
    opacity: Tensor,  # [16, H, H]
    prompt: str,
    suite_prompts: Sequence[str] = world.SUITE,
) -> dict[str, float | int | None]:
    """Compare the 16 views of an object with those of the true scene of its prompt.

    Returns:
        The scores by name.

        - ``iou``: silhouette intersection over union, mean over the views (opacity above one half).
        - ``psnr_db``: from the mean squared error over all views.
        - ``retrieval_rank``: 1 when no other scene of the suite is nearer in mean squared error.
        - ``view_accuracy``: share of the front, side and back views that are nearest to their own true view among the
          true front, side and back; None for objects without a front.
    """
    _check(images, opacity)
    images, opacity = images.detach().cpu().float(), opacity.detach().cpu().float()
    truth = true_views(world.normalised(prompt), images.shape[1])
    error = _mse(images, truth.image)
    others = {world.normalised(p) for p in suite_prompts} - {world.normalised(prompt)}
    nearer = [p for p in others if _mse(images, true_views(p, images.shape[1]).image) < error]
    return {
        'iou': silhouette_iou(opacity, truth.opacity),
        'psnr_db': -10 * math.log10(max(error, 1e-10)),
        'retrieval_rank': 1 + len(nearer),
        'view_accuracy': view_accuracy(images, truth.image) if _has_front(prompt) else None,
    }


def silhouette_iou(opacity: Tensor, other: Tensor) -> float:
    """Mean over views of the intersection over the union of two silhouettes: two [V, H, H]; both empty counts as 1."""
    a, b = opacity > 0.5, other > 0.5
    intersection, union = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return torch.where(union > 0, intersection / union.clamp_min(1), 1.0).mean().item()


def view_accuracy(images: Tensor, truth: Tensor) -> float:
    """Share of front, side and back views, at both elevations, nearest to their own true view: two [16, H, H, 3]."""
    views = oracle_views()
    right = []
    for elevation in ELEVATIONS_DEG:
        index = [views.index((azimuth, elevation)) for azimuth in _FACES.values()]
        errors = (images[index, None] - truth[None, index]).square().mean((2, 3, 4))  # [3, 3]
        right += [errors[i].argmin().item() == i for i in range(len(index))]
    return sum(right) / len(right)


def _has_front(prompt: str) -> bool:
    return world.normalised(prompt) in world.objects_with_front()


def _mse(images: Tensor, others: Tensor) -> float:
    return (images - others).square().mean().item()


def _check(images: Tensor, opacity: Tensor) -> None:
    views = len(oracle_views())
    square = (
        images.ndim == 4 and images.shape[0] == views and images.shape[1] == images.shape[2] and images.shape[3] == 3
    )
    if not square or opacity.shape != images.shape[:3]:
        raise ValueError(
            f'images {tuple(images.shape)} and opacity {tuple(opacity.shape)}: '
            f'expected [{views}, H, H, 3] and [{views}, H, H], views as in oracle_views()'
        )
