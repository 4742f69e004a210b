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
"""The surface of an object, whatever it is rendered as: the triangles that its renderer draws, or those of its density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.bake import albedo_of
from nemo_dreamfusion.export.mesh import HasField, extract_triangles
from nemo_dreamfusion.modules.nerf.base import RadianceField, Surface

RESOLUTION = 128  # grid corners along a side, of the mesh that an export makes when nothing is said
_POINTS = 1 << 18  # per call of the field


def drawn_surface(model: Any) -> Surface | None:
    """Return the surface that a model's renderer draws; None where it draws a volume."""
    return getattr(getattr(model, 'renderer', None), 'surface', None)


@torch.no_grad()
def find_triangles(
    model: HasField, *, resolution: int = RESOLUTION, threshold: float | str = 'auto'
) -> tuple[np.ndarray, np.ndarray]:
    """Return the triangles of an object, as its renderer draws them or as its density has them: vertices, faces.

    Args:
        model: such as ``DreamFusion``.
        resolution: grid corners along a side, where they come from the density.
        threshold: likewise; see :func:`~nemo_dreamfusion.export.mesh.extract_triangles`.

    Raises:
        ValueError: when there are none, or the field is broken.
    """
    surface = drawn_surface(model)
    if surface is None:
        return extract_triangles_of(model.nerf, resolution=resolution, threshold=threshold)
    mesh = surface()
    if not len(mesh.faces):
        raise ValueError(
            'nothing is left of the surface: train again from another object, or with a lower model.optim.lr.'
        )
    return mesh.vertices.float().cpu().numpy(), mesh.faces.cpu().numpy()


def extract_triangles_of(
    field: RadianceField, *, resolution: int = RESOLUTION, threshold: float | str = 'auto'
) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface of a field's density; see :func:`~nemo_dreamfusion.export.mesh.extract_triangles`."""
    return extract_triangles(
        field.density, bound=field.bound, resolution=resolution, threshold=threshold, device=device_of(field)
    )


def surface_colors(field: RadianceField) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function from positions (and normals, which it does not need) to the albedo on the surface, [N, 3]."""

    def albedo(positions: Tensor) -> Tensor:
        found = field(positions).albedo
        assert found is not None  # asked for by default
        return found

    @torch.no_grad()
    def look_up(positions: np.ndarray, normals: np.ndarray) -> np.ndarray:
        return albedo_of(albedo, positions, bound=field.bound, device=device_of(field), batch=_POINTS)

    return look_up


def device_of(field: RadianceField) -> torch.device:
    """Return where a field's parameters are."""
    return next((p.device for p in field.parameters()), torch.device('cpu'))
