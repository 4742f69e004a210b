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
"""Give a file of one's own another texture and leave everything else in it as it is, byte for byte."""

from __future__ import annotations

import json
import re
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from nemo_dreamfusion.export.glb import png_bytes
from nemo_dreamfusion.export.obj import check_beside
from nemo_dreamfusion.parts.files import atomic_path

_JSON, _BIN = 0x4E4F534A, 0x004E4942
_TRIANGLES = 4


def retexture_glb(content: bytes, texture: np.ndarray) -> bytes | None:
    """Return a .glb whose one material has another base colour.

    The image goes behind the file's own data; vertices, indices, nodes and whatever else is there stay. Vertex colours,
    which would be multiplied with the texture, are no longer named.

    Args:
        content: of the file.
        texture: [T, T, 3] uint8, sRGB.

    Returns:
        The new file; None for one that one texture does not fit: several materials, none, or parts without a place on it.
    """
    tree, data = _read_glb(content)
    primitives = [p for mesh in tree.get('meshes', []) for p in mesh['primitives'] if p.get('mode', 4) == _TRIANGLES]
    materials = {primitive.get('material') for primitive in primitives}
    placed = all('TEXCOORD_0' in primitive['attributes'] for primitive in primitives)
    if len(materials) != 1 or None in materials or not placed or len(tree.get('buffers', [])) != 1 or data is None:
        return None
    material = tree['materials'][materials.pop()]
    looks = material.setdefault('pbrMetallicRoughness', {})
    textures, number = tree.get('textures') or [{}], looks.get('baseColorTexture', {}).get('index', 0)
    sampler = textures[number].get('sampler') if number < len(textures) else None
    image = png_bytes(texture)
    data = data + bytes(-len(data) % 4)
    view = _add(tree, 'bufferViews', {'buffer': 0, 'byteOffset': len(data), 'byteLength': len(image)})
    source = _add(tree, 'images', {'name': 'albedo', 'bufferView': view, 'mimeType': 'image/png'})
    number = _add(tree, 'textures', {'source': source} | ({} if sampler is None else {'sampler': sampler}))
    looks['baseColorTexture'] = {'index': number}
    looks.pop('baseColorFactor', None)
    for primitive in primitives:
        primitive['attributes'].pop('COLOR_0', None)
    data += image + bytes(-len(image) % 4)
    tree['buffers'][0]['byteLength'] = len(data)
    text = json.dumps(tree, ensure_ascii=False, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 4)
    chunks = struct.pack('<II', len(text), _JSON) + text + struct.pack('<II', len(data), _BIN) + data
    return struct.pack('<4sII', b'glTF', 2, 12 + len(chunks)) + chunks


def _read_glb(content: bytes) -> tuple[dict[str, Any], bytes | None]:
    """Return the tree of a .glb that could be read before, and its data."""
    start = 12
    chunks: dict[int, bytes] = {}
    while start + 8 <= len(content):
        length, kind = struct.unpack_from('<II', content, start)
        chunks.setdefault(kind, content[start + 8 : start + 8 + length])
        start += 8 + length
    return json.loads(chunks[_JSON]), chunks.get(_BIN)


def _add(tree: dict[str, Any], key: str, value: dict[str, Any]) -> int:
    tree.setdefault(key, []).append(value)
    return len(tree[key]) - 1


def save_retextured_obj(source: Path, texture: np.ndarray, path: Path) -> None:
    """Write the lines of an .obj as they are, but for its material: a .mtl and a .png of the new name beside it.

    Args:
        source: has a place on the texture for every corner.
        texture: [T, T, 3] uint8, sRGB.
        path: of the new .obj.

    Raises:
        ValueError: when one would replace a file of something else.
    """
    check_beside(path)
    material, image = path.with_suffix('.mtl'), path.with_suffix('.png')
    lines = source.read_text(encoding='utf-8', errors='surrogateescape').splitlines(keepends=True)
    kept = [line for line in lines if not re.match(r'\s*(mtllib|usemtl)\b', line)]
    text = f'mtllib {material.name}\nusemtl albedo\n' + ''.join(kept)
    about = f'newmtl albedo\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {image.name}\n'
    contents = {image: png_bytes(texture), material: about.encode()}
    contents[path] = text.encode(errors='surrogateescape')
    with ExitStack() as files:
        for target, content in contents.items():  # they move in the opposite order: the .obj, which names them, first
            files.enter_context(atomic_path(target)).write_bytes(content)
