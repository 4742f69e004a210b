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

"""Meshes, and meshes on disk: .glb, .obj, .usdz, .ply, .stl (the one file that imports trimesh).

A mesh with a texture becomes a .glb, an .obj or a .usdz with it; the rest of this text is about colours at the vertices.

Colours: the values of our images are shown as they are, so in a PNG they count as sRGB. glTF defines the vertex colour
COLOR_0 as linear, and viewers convert it to sRGB to show it; so .glb gets the sRGB-decoded values, as floats, and looks
like our previews. Viewers show the vertex colours of .obj and .ply as they are; those get the values themselves.

trimesh keeps COLOR_0 of a mesh that has a material in ``.visual.vertex_attributes['color']``; without a material viewers
would show a metal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nemo_dreamfusion.export.decimate import is_closed
from nemo_dreamfusion.export.geometry import weld
from nemo_dreamfusion.export.glb import Paint, glb_bytes
from nemo_dreamfusion.export.obj import save_textured_obj
from nemo_dreamfusion.export.usdz import save_usdz
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.optional import require

TEXTURED = ('.glb', '.obj', '.usdz')  # formats that hold a texture
SUFFIXES = (*TEXTURED, '.ply', '.stl')


@dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from outside."""

    vertices: np.ndarray  # [V, 3] float32, world units
    faces: np.ndarray  # [F, 3] int64
    vertex_colors: np.ndarray  # [V, 3] float32 in [0, 1], display values as in our images
    uv: np.ndarray | None = None  # [V, 2] float32 in [0, 1], v from the texture's top row down, as glTF has it
    texture: np.ndarray | None = None  # [T, T, 3] uint8, display values: the albedo; then uv is there too
    normal_map: np.ndarray | None = None  # [T, T, 3] uint8, in tangent space; then tangents are there too
    tangents: np.ndarray | None = None  # [V, 4] float32, as glTF has them


def check_mesh_path(path: str | Path) -> Path:
    """Return the path if its suffix names one of the formats.

    Raises:
        ValueError: for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        refuse('the mesh file', str(path), f'a path that ends in {", ".join(SUFFIXES)}', 'Set mesh_fname=mesh.glb.')
    return path


def save_mesh(mesh: Mesh, path: str | Path, *, extras: Mapping[str, Any] | None = None) -> Path:
    """Write the mesh in the format of the path's suffix; the file is whole or not there.

    Args:
        mesh: with its texture, where it has one, in .glb, .obj and .usdz; with vertex colours in .ply, with none in .stl.
        path: ends in one of ``SUFFIXES``.
        extras: what ``asset.extras`` of a .glb says, as JSON has it.

    Raises:
        ValueError: for another suffix.
    """
    path = check_mesh_path(path)
    suffix = path.suffix.lower()
    if suffix == '.glb':
        _write(path, _glb(mesh, extras))
    elif suffix == '.usdz':
        save_usdz(mesh.vertices, mesh.faces, _paint(mesh) or mesh.vertex_colors, path, about=extras)
    elif suffix == '.obj' and (paint := _paint(mesh)):
        save_textured_obj(mesh.vertices, mesh.faces, paint.uv, paint.texture, path)
    else:
        colors = np.round(np.clip(mesh.vertex_colors, 0, 1) * 255).astype(np.uint8)
        shape = _trimesh().Trimesh(mesh.vertices, mesh.faces, vertex_colors=colors, process=False)
        with atomic_path(path) as temporary:
            shape.export(temporary)
    return path


def _paint(mesh: Mesh) -> Paint | None:
    if mesh.texture is None or mesh.uv is None:
        return None
    return Paint(mesh.uv, mesh.texture, mesh.normal_map, mesh.tangents)


def _glb(mesh: Mesh, extras: Mapping[str, Any] | None) -> bytes:
    closed = is_closed(weld(mesh.vertices, mesh.faces)[1])
    look = _paint(mesh) or srgb_to_linear(mesh.vertex_colors)
    return glb_bytes(mesh.vertices, mesh.faces, look, extras=extras, closed=closed)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_mesh(path: str | Path) -> Mesh:
    """Read what :func:`save_mesh` wrote (and other files of these formats), all meshes of the file as one.

    Raises:
        ValueError: for another suffix, a .usdz, or a file without a mesh.
    """
    path = check_mesh_path(path)
    if path.suffix.lower() == '.usdz':
        refuse('the mesh file', str(path), 'a .glb, .obj, .ply or .stl: a .usdz is written, not read')
    # In the order of the file, seams of an .obj would be lost: its corners have vertices and places of their own
    has_seams = path.suffix.lower() == '.obj' and b'\nvt ' in path.read_bytes()
    scene = _trimesh().load_scene(path, process=False, maintain_order=not has_seams)
    vertices, faces, colors, count, painted = [], [], [], 0, []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        shape = scene.geometry[name]
        vertices.append(shape.vertices @ transform[:3, :3].T + transform[:3, 3])
        faces.append(shape.faces + count)
        color, is_linear = _read_colors(shape)
        colors.append(linear_to_srgb(color) if is_linear and path.suffix.lower() == '.glb' else color)
        painted.append(_read_texture(shape))
        count += len(shape.vertices)
    if not vertices:
        raise ValueError(f'{path} holds no mesh: export it again with mode=export-mesh.')
    uv, texture = painted[0] if len(painted) == 1 else (None, None)
    return Mesh(
        vertices=np.concatenate(vertices).astype(np.float32),
        faces=np.concatenate(faces).astype(np.int64),
        vertex_colors=np.concatenate(colors).astype(np.float32),
        uv=uv,
        texture=texture,
    )


def _read_colors(shape: Any) -> tuple[np.ndarray, bool]:
    """Return the vertex colours of one of trimesh's meshes, [V, 3] in [0, 1], and whether glTF has them as linear."""
    if (beside := _colors_beside_material(shape)) is not None:
        colors, is_linear = beside[:, :3], True
    else:
        is_linear = not hasattr(shape.visual, 'to_color')  # else from a texture
        visual = shape.visual if is_linear else shape.visual.to_color()
        colors = np.atleast_2d(visual.vertex_colors)[:, :3]
        if len(colors) != len(shape.vertices):  # one colour of a material
            colors = np.broadcast_to(colors[:1], (len(shape.vertices), 3))
    return (colors / 255 if colors.dtype == np.uint8 else colors), is_linear


def _colors_beside_material(shape: Any) -> np.ndarray | None:
    """Return the vertex colours [V, 4] that trimesh keeps beside a material; None where there are none or all are white."""
    colors = getattr(shape.visual, 'vertex_attributes', {}).get('color')
    return None if colors is None or (np.asarray(colors) == 255).all() else np.asarray(colors)


def _read_texture(shape: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return uv [V, 2] and texture [H, W, 3] of one of trimesh's meshes; None where it has none, or vertex colours."""
    material = getattr(shape.visual, 'material', None)
    image = getattr(material, 'baseColorTexture', None) or getattr(material, 'image', None)
    uv = getattr(shape.visual, 'uv', None)
    if uv is None or len(uv) != len(shape.vertices) or _colors_beside_material(shape) is not None:
        return None, None
    place = np.stack([uv[:, 0], 1 - uv[:, 1]], -1)  # trimesh counts from the bottom up
    return place.astype(np.float32), None if image is None else np.asarray(image.convert('RGB'))


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """Decode display values in [0, 1] to linear light (sRGB, IEC 61966-2-1): any shape -> the same shape."""
    return np.where(value <= 0.04045, value / 12.92, ((np.maximum(value, 0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: np.ndarray) -> np.ndarray:
    """Encode linear light in [0, 1] to display values (sRGB, IEC 61966-2-1): any shape -> the same shape."""
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * np.maximum(value, 0.0031308) ** (1 / 2.4) - 0.055)


def _trimesh() -> ModuleType:
    return require('trimesh', extra=None, reason='mesh files are read and written with it')
