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

from nemo_dreamfusion.export.mesh_files import save_mesh
from nemo_dreamfusion.export.surface import drawn_surface, extract_surface, take_surface
from nemo_dreamfusion.viewer.scene_copy import SceneCopy

MESH_SECONDS = 15.0  # between two meshes at least
RESOLUTION = 64  # grid corners along a side: a tenth of a second of work


def moving_mesh(scene: SceneCopy) -> bytes:
    """Return the surface of a scene with its albedo as a .glb.

    Raises:
        ValueError: for a field without a surface.
    """
    surface = drawn_surface(scene)
    if surface is not None:
        mesh = take_surface(surface, scene.nerf)
    else:
        mesh = extract_surface(scene.nerf, resolution=RESOLUTION)
    with tempfile.TemporaryDirectory() as folder:
        return save_mesh(mesh, Path(folder) / 'mesh.glb').read_bytes()
