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

"""Write a textured mesh as Wavefront .obj, with its .mtl and .png beside it."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from nemo_dreamfusion.export.geometry import smooth_normals, weld
from nemo_dreamfusion.export.glb import ROUGHNESS, png_bytes
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import atomic_path

_MATERIAL = 'matt'


def save_textured_obj(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray, path: Path
) -> tuple[Path, ...]:
    """Write ``<name>.obj``, ``<name>.mtl`` and ``<name>.png``: all three, or none where one cannot be written.

    Args:
        vertices: [V, 3]; those at one place become one vertex, so that the surface stays closed.
        faces: [F, 3].
        uv: [V, 2], v from the texture's top row down; the file has it from the bottom up.
        texture: [T, T, 3] uint8, sRGB.
        path: of the .obj; the others are named after it.

    Raises:
        OSError: when one cannot be written.
        ValueError: when one would replace a file of something else, see :func:`check_beside`.
    """
    check_beside(path)
    material, image = path.with_suffix('.mtl'), path.with_suffix('.png')
    contents = {
        image: png_bytes(texture),
        material: _material(image.name).encode(),
        path: _shape(vertices, faces, uv, material.name).encode(),
    }
    with ExitStack() as files:
        for target, content in contents.items():  # they move in the opposite order: the .obj, which names them, first
            files.enter_context(atomic_path(target)).write_bytes(content)
    return tuple(contents)


def check_beside(path: Path) -> None:
    """Refuse an .obj whose .mtl or .png would replace a file that is not its own.

    Its own are those that an .obj of this name, which is replaced, says it has; a .png also where the .mtl that the .obj
    names is not there, as after a writer that was killed.

    Raises:
        ValueError: naming the file.
    """
    material, image = path.with_suffix('.mtl'), path.with_suffix('.png')
    own: set[str] = set()
    if path.is_file():
        own |= _names(path, 'mtllib')
        if material.name in own:
            own |= _names(material, 'map_Kd') if material.is_file() else {image.name}
    for beside in (material, image):
        if beside.exists() and beside.name not in own:
            advice = f'Set mesh_fname={path.stem}_mesh.obj, or move {beside.name} away.'
            refuse(
                'mesh_fname', str(path), f'a name whose {beside.suffix} file, {beside.name}, is not there yet', advice
            )


def _names(path: Path, keyword: str) -> set[str]:
    """Return the files that the lines of a keyword name."""
    with path.open(encoding='utf-8', errors='replace') as lines:
        return {
            line.split(None, 1)[1].strip() for line in lines if line.split(None, 1)[:1] == [keyword] and ' ' in line
        }


def _material(image: str) -> str:
    lines = (f'newmtl {_MATERIAL}', 'Ka 0 0 0', 'Kd 1 1 1', 'Ks 0 0 0', 'illum 1', f'Pr {ROUGHNESS}', 'Pm 0')
    return '\n'.join((*lines, f'map_Kd {image}', ''))


def _shape(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, material: str) -> str:
    distinct, welded, number = weld(vertices, faces)
    normals = np.zeros_like(distinct)
    normals[number] = smooth_normals(vertices, faces)
    text = io.StringIO()
    text.write(f'mtllib {material}\no object\n')
    np.savetxt(text, distinct, 'v %.6g %.6g %.6g')
    np.savetxt(text, np.stack([uv[:, 0], 1 - uv[:, 1]], -1), 'vt %.6f %.6f')
    np.savetxt(text, normals, 'vn %.4f %.4f %.4f')
    text.write(f'usemtl {_MATERIAL}\ns 1\n')
    corners = np.stack([welded + 1, faces + 1, welded + 1], -1).reshape(-1, 9)
    np.savetxt(text, corners, 'f %d/%d/%d %d/%d/%d %d/%d/%d')
    return text.getvalue()
