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

"""Compare the mesh of a finished object with the true surface of its prompt: shape, colours, parts, closed or not."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from nemo_dreamfusion.export.agreement import orbit_around
from nemo_dreamfusion.export.decimate import is_closed
from nemo_dreamfusion.export.seen import seen_colors
from nemo_dreamfusion.export.surface import RESOLUTION, device_of, drawn_surface, find_triangles, surface_colors
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.pocket.metrics.colors import delta_e_2000, linear_rgb_to_lab
from nemo_dreamfusion.pocket.metrics.geometry import (
    SurfacePoints,
    compare_surfaces,
    count_components,
    empty_scores,
    sample_mesh,
    sample_scene,
)
from nemo_dreamfusion.pocket.world.prompts import build_scene, normalize

POINTS = 30_000  # on each surface
Triangles = tuple[np.ndarray, np.ndarray]  # vertices [V, 3], faces [F, 3]


def score_surface(
    model: DreamFusion, prompt: str, *, resolution: int = RESOLUTION, points: int = POINTS
) -> dict[str, float]:
    """Compare the mesh that an export would write, before it gets fewer triangles, with the true surface.

    Returns:
        What :func:`~nemo_dreamfusion.pocket.metrics.geometry.compare_surfaces` says; for an object without a surface the
        worst numbers.

    Raises:
        ValueError: when the pocket world has no such object.
    """
    return _score(_extract(model, resolution), prompt, points)


def score_mesh(
    model: DreamFusion, prompt: str, *, resolution: int = RESOLUTION, points: int = POINTS
) -> dict[str, Any]:
    """Return what :func:`score_surface` does, and of the same mesh:

    - ``surface_delta_e``: mean CIEDE2000 between its colours and those of the nearest points of the true surface; None
      without a surface.
    - ``components``: parts that no edge connects.
    - ``watertight``: whether it is closed.
    """
    mesh = _extract(model, resolution)
    scores = _score(mesh, prompt, points)
    if mesh is None:
        return {**scores, 'surface_delta_e': None, 'components': 0, 'watertight': False}
    difference = _compare_colors(model, sample_mesh(*mesh, points, seed=1), prompt, points)
    parts, closed = count_components(mesh[1]), is_closed(mesh[1])
    return {**scores, 'surface_delta_e': difference, 'components': parts, 'watertight': closed}


def _extract(model: DreamFusion, resolution: int) -> Triangles | None:
    """Return the mesh; None for an empty or a broken field."""
    try:
        return find_triangles(model, resolution=resolution)
    except ValueError:  # an object without a surface is a result, and the worst
        return None


def _score(mesh: Triangles | None, prompt: str, points: int) -> dict[str, float]:
    truth = _sample_truth(normalize(prompt), points)
    if mesh is None:
        return empty_scores()
    try:
        return compare_surfaces(sample_mesh(*mesh, points, seed=1), truth)
    except ValueError:  # a mesh without area
        return empty_scores()


def _compare_colors(model: DreamFusion, found: SurfacePoints, prompt: str, points: int) -> float:
    """Return the mean CIEDE2000 over the mesh, of the colours that a texture gets."""
    from scipy.spatial import cKDTree

    field = model.nerf
    if drawn_surface(model) is None:
        look_up = seen_colors(field, device_of(field), orbit_around(field.bound))
    else:
        look_up = surface_colors(field)
    own = look_up(found.positions, found.normals)
    scene, truth = build_scene(normalize(prompt)), _sample_truth(normalize(prompt), points)
    nearest = truth.positions[cKDTree(truth.positions).query(found.positions)[1]]
    true = scene.albedo(torch.from_numpy(nearest).float()).numpy()
    return float(np.mean(delta_e_2000(linear_rgb_to_lab(own), linear_rgb_to_lab(true))))


@lru_cache(maxsize=64)
def _sample_truth(prompt: str, points: int) -> SurfacePoints:
    return sample_scene(build_scene(prompt), points)
