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

"""Write a textured mesh as binary glTF 2.0 (.glb), as the specification of Khronos has it."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
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


def glb_bytes(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    texture: np.ndarray,
    *,
    extras: Mapping[str, Any] | None = None,
    closed: bool = True,
) -> bytes:
    """Return the file: one mesh with smooth normals and one matt material whose base colour is the texture.

    Args:
        vertices: [V, 3], y up, the front at +z.
        faces: [F, 3], counter-clockwise seen from outside.
        uv: [V, 2], v from the texture's top row down.
        texture: [T, T, 3] uint8, sRGB.
        extras: what ``asset.extras`` says, as JSON has it.
        closed: whether nobody can see the faces from inside.
    """
    buffer = _Buffer()
    position = buffer.add_accessor(vertices.astype('<f4'), 'VEC3', _VERTICES, bounds=True)
    normal = buffer.add_accessor(smooth_normals(vertices, faces).astype('<f4'), 'VEC3', _VERTICES)
    place = buffer.add_accessor(uv.astype('<f4'), 'VEC2', _VERTICES)
    white = buffer.add_accessor(np.full((len(vertices), 4), 255, np.uint8), 'VEC4', _VERTICES)
    index = buffer.add_accessor(faces.astype('<u4').reshape(-1), 'SCALAR', _INDICES)
    image = buffer.add_view(png_bytes(texture))
    material = {
        'name': 'matt',
        'pbrMetallicRoughness': {
            'baseColorTexture': {'index': 0},
            'metallicFactor': 0,
            'roughnessFactor': ROUGHNESS,
        },
        'doubleSided': not closed,
    }
    # Readers multiply COLOR_0 with the texture, so white leaves it as it is: for programs that look for it.
    attributes = {'POSITION': position, 'NORMAL': normal, 'TEXCOORD_0': place, 'COLOR_0': white}
    tree = {
        'asset': {'version': '2.0', 'generator': f'nemo_dreamfusion {__version__}', 'extras': dict(extras or {})},
        'scene': 0,
        'scenes': [{'nodes': [0]}],
        'nodes': [{'mesh': 0, 'name': 'object'}],
        'meshes': [{'name': 'object', 'primitives': [{'attributes': attributes, 'indices': index, 'material': 0}]}],
        'materials': [material],
        'textures': [{'source': 0, 'sampler': 0}],
        'samplers': [{'magFilter': _LINEAR, 'minFilter': _MIPMAP, 'wrapS': _CLAMP, 'wrapT': _CLAMP}],
        'images': [{'name': 'albedo', 'bufferView': image, 'mimeType': 'image/png'}],
        'accessors': buffer.accessors,
        'bufferViews': buffer.views,
        'buffers': [{'byteLength': len(buffer.data)}],
    }
    text = json.dumps(tree, ensure_ascii=False, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 4)
    chunks = struct.pack('<II', len(text), 0x4E4F534A) + text  # 'JSON'
    chunks += struct.pack('<II', len(buffer.data), 0x004E4942) + bytes(buffer.data)  # 'BIN'
    return struct.pack('<4sII', b'glTF', 2, 12 + len(chunks)) + chunks


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
