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

"""The mesh that a browser shows while its camera moves, where a processor paints too slowly."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from nemo_dreamfusion.export.mesh_files import Mesh, save_mesh
from nemo_dreamfusion.export.surface import find_triangles, surface_colors
from nemo_dreamfusion.parts.types import TriangleMesh
from nemo_dreamfusion.viewer.cut_surface import Box, cut
from nemo_dreamfusion.viewer.scene_copy import SceneCopy

MESH_SECONDS = 15.0  # between two meshes at least
RESOLUTION = 64  # grid corners along a side: a tenth of a second of work


def moving_mesh(scene: SceneCopy, box: Box) -> bytes:
    """Return the surface of a scene within a box with its albedo as a .glb.

    Args:
        scene: whose surface it is.
        box: lowest and highest x, y and z, shares of the scene's bound.

    Raises:
        ValueError: for a field without a surface, or a box without any of it.
    """
    field = scene.nerf
    vertices, faces = (torch.from_numpy(one) for one in find_triangles(scene, resolution=RESOLUTION))
    left = cut(TriangleMesh(vertices, faces), box, field.bound)
    if not len(left.faces):
        raise ValueError('nothing of the object lies in the box.')
    used, renumbered = np.unique(left.faces.numpy(), return_inverse=True)
    places = left.vertices.numpy()[used]
    mesh = Mesh(places, renumbered.reshape(-1, 3), surface_colors(field)(places, places))
    with tempfile.TemporaryDirectory() as folder:
        return save_mesh(mesh, Path(folder) / 'mesh.glb').read_bytes()
