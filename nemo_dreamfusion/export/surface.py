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
from nemo_dreamfusion.export.mesh import extract_mesh
from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.modules.nerf.base import RadianceField, Surface

_POINTS = 1 << 18  # per call of the field


def drawn_surface(model: Any) -> Surface | None:
    """Return the surface that a model's renderer draws; None where it draws a volume."""
    return getattr(getattr(model, 'renderer', None), 'surface', None)


def extract_surface(field: RadianceField, *, resolution: int = 128, threshold: float | str = 'auto') -> Mesh:
    """Return the surface of a field's density with its albedo; see :func:`~nemo_dreamfusion.export.mesh.extract_mesh`."""
    return extract_mesh(
        field.density,
        lambda positions: field(positions).albedo,
        bound=field.bound,
        resolution=resolution,
        threshold=threshold,
        device=device_of(field),
    )


@torch.no_grad()
def take_surface(surface: Surface, field: RadianceField) -> Mesh:
    """Return the triangles of a surface as they are drawn, with the field's albedo.

    Raises:
        ValueError: when none are left.
    """
    mesh = surface()
    if not len(mesh.faces):
        raise ValueError(
            'nothing is left of the surface: train again from another object, or with a lower model.optim.lr.'
        )
    vertices = mesh.vertices.float().cpu().numpy()
    return Mesh(vertices, mesh.faces.cpu().numpy(), surface_colors(field)(vertices, vertices))


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
