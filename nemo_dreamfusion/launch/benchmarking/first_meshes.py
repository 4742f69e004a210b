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
"""The meshes that a benchmark's row may start from: an object's true surface, or a ball."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from nemo_dreamfusion.export.mesh import march
from nemo_dreamfusion.export.mesh_files import Mesh, save_mesh
from nemo_dreamfusion.pocket.world.prompts import build_scene, normalize
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

MESHES = ('true', 'ball')
BALL = 0.6  # radius, world units
_SIDE, _CORNERS, _POINTS = (
    1.05,
    112,
    1 << 16,
)  # half a side of the grid's box, its corners along a side, points at a time


def write_first_mesh(kind: str, prompt: str, path: Path) -> None:
    """Write the true surface of a prompt's scene, or a ball, as a mesh without colours, in the world's units."""
    scene = build_scene(normalize(prompt))
    if kind == 'ball':
        scene = Scene([Primitive('ellipsoid', (0.0, 0.0, 0.0), (BALL, BALL, BALL), (0.5, 0.5, 0.5))])
    path.parent.mkdir(parents=True, exist_ok=True)
    vertices, faces = march_scene(scene)
    save_mesh(Mesh(vertices, faces, np.full((len(vertices), 3), 0.5, np.float32)), path)


@torch.no_grad()
def march_scene(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface of a scene: vertices [V, 3], faces [F, 3] outward."""
    ticks = torch.linspace(-_SIDE, _SIDE, _CORNERS)
    parts = [scene.signed_distance(points) for points in torch.cartesian_prod(ticks, ticks, ticks).split(_POINTS)]
    return march(-torch.cat(parts).view(_CORNERS, _CORNERS, _CORNERS).numpy(), _SIDE)
