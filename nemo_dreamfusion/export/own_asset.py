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
"""Write a mesh of one's own with what was learnt of it: its triangles, and where it can its places on the texture."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_dreamfusion.export.atlas import make_atlas
from nemo_dreamfusion.export.bake import bake
from nemo_dreamfusion.export.geometry import smooth_normals
from nemo_dreamfusion.export.mesh_files import TEXTURED, Mesh, load_mesh
from nemo_dreamfusion.export.retexture import retexture_glb, save_retextured_obj
from nemo_dreamfusion.export.surface import surface_colors
from nemo_dreamfusion.export.unwrap import uv_use
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.types import FileMesh

logger = logging.getLogger('nemo_dreamfusion.export.own_asset')

OWN_PLACES = "the file's own"
_OVERLAP = 1.05  # of the places' area over that of the texels they cover: more, and triangles share texels


@dataclass(frozen=True)
class OwnAsset:
    """A painted mesh of one's own."""

    kind: str  # of its atlas
    mesh: Mesh  # vertices in the file's own units
    in_world: Mesh  # the same, where the cameras see it


def paint_own(file: FileMesh, field: RadianceField, size: int, *, textured: bool) -> OwnAsset:
    """Paint triangles of a file with the field's albedo: where the file has them on its texture, else on an atlas.

    Args:
        file: as it is now.
        field: over the world's box.
        size: texels of a side.
        textured: false gives colours at the vertices.
    """
    vertices, faces, uv = (t.cpu().numpy() for t in (file.vertices, file.faces, file.uv))
    placement = file.placement.cpu().numpy().astype(np.float64)

    def to_world(points: np.ndarray) -> np.ndarray:
        return (points.astype(np.float64) @ placement[:, :3].T + placement[:, 3]).astype(np.float32)

    colors = surface_colors(field)

    def look_up(positions: np.ndarray, normals: np.ndarray) -> np.ndarray:
        return colors(to_world(positions), normals)

    kind, mesh = 'vertex colours', Mesh(vertices, faces, look_up(np.nan_to_num(vertices), vertices))
    if textured and _has_places(uv, faces):
        texture = bake(vertices, faces, uv, size, look_up)
        kind, mesh = OWN_PLACES, replace(mesh, uv=uv, texture=texture)
        if uv_use(uv, faces) > _OVERLAP * _covered(uv, faces):
            logger.warning('Triangles of the file share places on its texture: they look alike, as before.')
    elif textured and (atlas := make_atlas(vertices, faces, size)) is not None:
        texture = bake(atlas.vertices, atlas.faces, atlas.uv, size, look_up)
        own = look_up(atlas.vertices, smooth_normals(atlas.vertices, atlas.faces))
        kind, mesh = atlas.kind, Mesh(atlas.vertices, atlas.faces, own, atlas.uv, texture)
    return OwnAsset(kind, mesh, replace(mesh, vertices=to_world(mesh.vertices)))


def _has_places(uv: np.ndarray, faces: np.ndarray) -> bool:
    """Tell whether every corner has a place within the texture, and the triangles cover some of it."""
    if not len(uv) or not np.isfinite(uv[faces]).all():
        return False
    used = uv[faces]
    return bool(used.min() > -1e-3 and used.max() < 1 + 1e-3 and uv_use(uv, faces) > 1e-3)


def _covered(uv: np.ndarray, faces: np.ndarray, size: int = 512) -> float:
    """Return the share of the texture's texels whose centres lie on a triangle."""
    from nemo_dreamfusion.export.raster import find_covered

    return len(find_covered(uv, faces, size)[0]) / size**2


def save_in_place(asset: OwnAsset, source: str | None, path: Path, *, moved: bool) -> bool:
    """Write the file itself with nothing but its texture replaced, where that can be done; else write nothing.

    Args:
        asset: on the file's own places.
        source: the file; it may be gone, or of another format than ``path``.
        path: where to write.
        moved: whether the vertices are no longer those of the file.

    Returns:
        Whether it was written.
    """
    texture = asset.mesh.texture
    if moved or asset.kind != OWN_PLACES or texture is None or not source or not Path(source).is_file():
        return False
    if Path(source).suffix.lower() != path.suffix.lower() or path.suffix.lower() not in TEXTURED:
        return False
    if _changed(Path(source), asset.mesh):
        return False
    if path.suffix.lower() == '.obj':
        save_retextured_obj(Path(source), texture, path)
        return True
    content = retexture_glb(Path(source).read_bytes(), texture)
    if content is not None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return content is not None


def _changed(source: Path, mesh: Mesh) -> bool:
    """Tell whether the file is no longer what the mesh was read from."""
    try:
        found = load_mesh(source)
    except Exception:  # trimesh raises whatever its readers stumble over
        return True
    return not np.array_equal(found.vertices, mesh.vertices, equal_nan=True)


def source_of(model: Any) -> str | None:
    """Return the path of the file that a model started from."""
    return (getattr(model, 'options', None) or {}).get('mesh')
