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

"""Write a mesh as binary glTF 2.0 (.glb), as the specification of Khronos has it."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from nemo_dreamfusion.export.geometry import smooth_normals
from nemo_dreamfusion.package_info import __version__

_VERTICES, _INDICES = 34962, 34963  # targets of buffer views: ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER
_FLOAT, _UINT, _BYTE = 5126, 5125, 5121
_LINEAR, _MIPMAP, _CLAMP = 9729, 9987, 33071
ROUGHNESS = 0.9


def png_bytes(texture: np.ndarray) -> bytes:
    """Encode a texture [T, T, 3] uint8 as PNG."""
    file = io.BytesIO()
    Image.fromarray(texture).save(file, 'PNG')
    return file.getvalue()


@dataclass(frozen=True)
class Paint:
    """A texture and what goes with it."""

    uv: np.ndarray  # [V, 2], v from the texture's top row down
    texture: np.ndarray  # [T, T, 3] uint8, sRGB
    normal_map: np.ndarray | None = None  # [T, T, 3] uint8, in tangent space, green up
    tangents: np.ndarray | None = None  # [V, 4], where there is a normal map


def glb_bytes(
    vertices: np.ndarray,
    faces: np.ndarray,
    look: Paint | np.ndarray,
    *,
    extras: Mapping[str, Any] | None = None,
    closed: bool = True,
) -> bytes:
    """Return the file: one mesh with smooth normals and one matt material.

    Args:
        vertices: [V, 3], y up, the front at +z.
        faces: [F, 3], counter-clockwise seen from outside.
        look: a texture, or colours at the vertices, [V, 3] linear in [0, 1].
        extras: what ``asset.extras`` says, as JSON has it.
        closed: whether nobody can see the faces from inside.
    """
    buffer = _Buffer()
    attributes = {
        'POSITION': buffer.add_accessor(vertices.astype('<f4'), 'VEC3', _VERTICES, bounds=True),
        'NORMAL': buffer.add_accessor(smooth_normals(vertices, faces).astype('<f4'), 'VEC3', _VERTICES),
    }
    surface: dict[str, Any] = {'metallicFactor': 0, 'roughnessFactor': ROUGHNESS}
    material = {'name': 'matt', 'pbrMetallicRoughness': surface, 'doubleSided': not closed}
    images: dict[str, np.ndarray] = {}
    if isinstance(look, Paint):
        attributes['TEXCOORD_0'] = buffer.add_accessor(look.uv.astype('<f4'), 'VEC2', _VERTICES)
        # Readers multiply COLOR_0 with the texture, so white leaves it as it is: for programs that look for it.
        white = np.full((len(vertices), 4), 255, np.uint8)
        attributes['COLOR_0'] = buffer.add_accessor(white, 'VEC4', _VERTICES)
        surface['baseColorTexture'], images['albedo'] = {'index': 0}, look.texture
        if look.normal_map is not None and look.tangents is not None:
            attributes['TANGENT'] = buffer.add_accessor(look.tangents.astype('<f4'), 'VEC4', _VERTICES)
            material['normalTexture'], images['normals'] = {'index': 1}, look.normal_map
    else:
        attributes['COLOR_0'] = buffer.add_accessor(look.astype('<f4'), 'VEC3', _VERTICES)
    index = buffer.add_accessor(faces.astype('<u4').reshape(-1), 'SCALAR', _INDICES)
    tree = {
        'asset': {'version': '2.0', 'generator': f'nemo_dreamfusion {__version__}', 'extras': dict(extras or {})},
        'scene': 0,
        'scenes': [{'nodes': [0]}],
        'nodes': [{'mesh': 0, 'name': 'object'}],
        'meshes': [{'name': 'object', 'primitives': [{'attributes': attributes, 'indices': index, 'material': 0}]}],
        'materials': [material],
        **_textures(buffer, images),
        'accessors': buffer.accessors,
        'bufferViews': buffer.views,
        'buffers': [{'byteLength': len(buffer.data)}],
    }
    text = json.dumps(tree, ensure_ascii=False, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 4)
    chunks = struct.pack('<II', len(text), 0x4E4F534A) + text  # 'JSON'
    chunks += struct.pack('<II', len(buffer.data), 0x004E4942) + bytes(buffer.data)  # 'BIN'
    return struct.pack('<4sII', b'glTF', 2, 12 + len(chunks)) + chunks


def _textures(buffer: _Buffer, images: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the parts of the tree that a file without a texture may not have."""
    if not images:
        return {}
    views = {name: buffer.add_view(png_bytes(image)) for name, image in images.items()}
    return {
        'textures': [{'source': i, 'sampler': 0} for i in range(len(images))],
        'samplers': [{'magFilter': _LINEAR, 'minFilter': _MIPMAP, 'wrapS': _CLAMP, 'wrapT': _CLAMP}],
        'images': [{'name': name, 'bufferView': view, 'mimeType': 'image/png'} for name, view in views.items()],
    }


class _Buffer:
    """Bytes, with the views and accessors that say what they are; each starts at a multiple of four."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_view(self, content: bytes, **more: Any) -> int:
        self.views.append({'buffer': 0, 'byteOffset': len(self.data), 'byteLength': len(content), **more})
        self.data += content + bytes(-len(content) % 4)
        return len(self.views) - 1

    def add_accessor(self, values: np.ndarray, kind: str, target: int, *, bounds: bool = False) -> int:
        view = self.add_view(values.tobytes(), target=target)
        component = {'f4': _FLOAT, 'u4': _UINT, 'u1': _BYTE}[values.dtype.str[1:]]
        accessor = {'bufferView': view, 'componentType': component, 'count': len(values), 'type': kind}
        if component == _BYTE:
            accessor['normalized'] = True
        if bounds:
            accessor |= {'min': values.min(0).tolist(), 'max': values.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1
