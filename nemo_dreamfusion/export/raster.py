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

"""Draw a mesh in its colours, without lighting, and its triangles in the plane of their texture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.modules.renderers.triangles import to_clip
from nemo_dreamfusion.ops.rasterise import rasterise
from nemo_dreamfusion.parts.types import CameraBatch


def rasterize(
    mesh: Mesh, cameras: CameraBatch, *, background: tuple[float, float, float] = (1.0, 1.0, 1.0), samples: int = 2
) -> tuple[Tensor, Tensor]:
    """Draw the mesh in its texture, else in its colours: image [B, H, W, 3] over the background, opacity [B, H, W, 1].

    Args:
        mesh: both sides of its triangles are drawn.
        cameras: B of them.
        background: colour where nothing is.
        samples: points per pixel and axis.
    """
    height, width = cameras.height, cameras.width
    finer = replace(cameras, height=height * samples, width=width * samples)
    frames = []
    for i in range(len(cameras)):
        frame = np.zeros((finer.height * finer.width, 4))
        pixel, face, share = find_seen(mesh, finer[i : i + 1])
        frame[pixel, :3], frame[pixel, 3] = _color(mesh, face, share), 1.0
        frames.append(frame.reshape(height, samples, width, samples, 4).mean((1, 3)))
    mean = torch.from_numpy(np.stack(frames)).float()
    opacity = mean[..., 3:]
    return mean[..., :3] + (1 - opacity) * torch.tensor(background), opacity


def find_seen(mesh: Mesh, camera: CameraBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the centres of the pixels of one camera see: pixels [P], flat, faces [P], corners' shares [P, 3]."""
    corners = np.nan_to_num(mesh.vertices[mesh.faces], posinf=0, neginf=0)  # not of vertices that no triangle has
    bound = float(np.abs(corners).max(initial=1e-6))
    clip = to_clip(torch.from_numpy(np.asarray(mesh.vertices, np.float32)), camera.to('cpu'), bound)
    return _seen(clip, mesh.faces, camera.height, camera.width)


def find_covered(uv: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the texels whose centres triangles cover: texels [P], flat, face indices [P], shares of their corners [P, 3].

    Args:
        uv: of each vertex [V, 2], in [0, 1], v from the top row down.
        faces: [F, 3]; where two lie, the first counts.
        size: texels of a side.
    """
    # On a canvas of a power of two, of which the texture is a corner, float32 holds the centres of texels exactly.
    column, row = to_texels(uv, size)
    canvas = 1 << (size - 1).bit_length()
    flat = np.column_stack([2 * column / canvas - 1, 1 - 2 * row / canvas, 0 * column, 0 * column + 1])
    pixel, face, share = _seen(torch.from_numpy(flat.astype(np.float32)), faces, canvas, canvas)
    kept = (pixel % canvas < size) & (pixel < size * canvas)
    return pixel[kept] // canvas * size + pixel[kept] % canvas, face[kept], share[kept]


def to_texels(uv: np.ndarray, size: int) -> np.ndarray:
    """Return columns and rows [2, V] of places uv [V, 2] in a texture; the centre of the first texel is 0.5.

    Rounded: what was stored in float32 lies beside centres of texels that it should lie on.
    """
    return np.round(uv.astype(np.float64) * size, 3).T


def sample_texture(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Look a texture up between its four nearest texels, the edge repeated: [H, W, C] at uv [P, 2] -> [P, C].

    Args:
        texture: numbers.
        uv: in [0, 1], v from the top row down, as glTF has it.
    """
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, uv[:, 1] * height - 0.5
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    a, b = (x - left)[:, None], (y - top)[:, None]
    columns = [np.clip(left + i, 0, width - 1) for i in (0, 1)]
    rows = [np.clip(top + i, 0, height - 1) for i in (0, 1)]
    upper = texture[rows[0], columns[0]] * (1 - a) + texture[rows[0], columns[1]] * a
    lower = texture[rows[1], columns[0]] * (1 - a) + texture[rows[1], columns[1]] * a
    return upper * (1 - b) + lower * b


def _color(mesh: Mesh, face: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the colours [P, 3] at points of faces [P], given the shares of their corners [P, 3]."""
    corner = mesh.faces[face]
    if mesh.texture is None or mesh.uv is None:
        return (share[..., None] * mesh.vertex_colors[corner]).sum(1)
    return sample_texture(mesh.texture / 255, (share[..., None] * mesh.uv[corner]).sum(1))


def _seen(clip: Tensor, faces: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    raster = rasterise(clip, torch.from_numpy(np.asarray(faces, np.int64)), height, width)
    face = raster.face_ids.flatten().numpy()
    pixel = np.flatnonzero(face >= 0)
    return pixel, face[pixel], raster.barycentrics.flatten(0, 2).numpy()[pixel]
