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

"""Draw a mesh with a z-buffer, without lighting: slow and small, for tests and previews of exported files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.parts.types import CameraBatch

_NEAR = 1e-3  # world units; triangles that reach behind it are left out
_PAIRS = 1 << 21  # (triangle, pixel) pairs at a time


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
    height, width = cameras.height * samples, cameras.width * samples
    frames = []
    for pose, fov in zip(cameras.camera_to_world.cpu().double().numpy(), cameras.fov_y_rad.cpu().double().numpy()):
        local = (mesh.vertices - pose[:3, 3]) @ pose[:3, :3]
        frame = np.zeros((height * width, 4))
        pixel, face, share = _find_nearest(local, mesh.faces, 1 / np.tan(fov / 2), height, width)
        frame[pixel, :3], frame[pixel, 3] = _color(mesh, face, share), 1.0
        frames.append(frame.reshape(cameras.height, samples, cameras.width, samples, 4).mean((1, 3)))
    mean = torch.from_numpy(np.stack(frames)).float()
    opacity = mean[..., 3:]
    return mean[..., :3] + (1 - opacity) * torch.tensor(background), opacity


def find_seen(mesh: Mesh, camera: CameraBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the centres of the pixels of one camera see: pixels [P], flat, faces [P], corners' shares [P, 3]."""
    pose, fov = camera.camera_to_world[0].cpu().double().numpy(), float(camera.fov_y_rad[0])
    local = (mesh.vertices - pose[:3, 3]) @ pose[:3, :3]
    return _find_nearest(local, mesh.faces, 1 / np.tan(fov / 2), camera.height, camera.width)


def cover(
    column: np.ndarray, row: np.ndarray, faces: np.ndarray, height: int, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield, in batches, the pixels whose centres triangles cover: pixels [P], flat, face indices [P], shares [P, 3].

    Args:
        column: of each vertex [V], pixels; the centre of the first pixel is 0.5.
        row: likewise, downward.
        faces: [F, 3].
        height: pixels.
        width: pixels.
    """
    first_column, columns = _find_span(column[faces], width)
    first_row, rows = _find_span(row[faces], height)
    counts = columns * rows
    for part in _split_into_batches(counts):
        owner = np.repeat(part, counts[part])
        step = np.arange(len(owner)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        c = first_column[owner] + step % columns[owner]
        r = first_row[owner] + step // columns[owner]
        corner = faces[owner]
        share, inside = _barycentric(column[corner], row[corner], c + 0.5, r + 0.5)
        yield r[inside] * width + c[inside], owner[inside], share[inside]


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


def _find_nearest(
    local: np.ndarray, faces: np.ndarray, focal: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the covered pixels [P], as flat indices, the nearest face there [P] and the shares of its corners [P, 3].

    Args:
        local: vertices [V, 3] in the axes of the camera.
        faces: [F, 3].
        focal: cotangent of half the vertical angle of view.
        height: pixels.
        width: pixels.
    """
    depth = -local[:, 2]
    safe = np.maximum(depth, _NEAR)
    column = width / 2 + local[:, 0] / safe * focal * height / 2
    row = height / 2 - local[:, 1] / safe * focal * height / 2
    kept = np.flatnonzero((depth[faces] > _NEAR).all(1))
    found = [np.zeros((0, 6))]
    for pixel, face, share in cover(column, row, faces[kept], height, width):
        share = share / depth[faces[kept[face]]]  # perspective: linear over 1 / depth
        inverse = share.sum(1)
        found.append(np.column_stack([pixel, 1 / inverse, kept[face], share / inverse[:, None]]))
    everything = np.concatenate(found)
    everything = everything[np.lexsort((everything[:, 1], everything[:, 0]))]
    pixel, first = np.unique(everything[:, 0].astype(np.int64), return_index=True)
    return pixel, everything[first, 2].astype(np.int64), everything[first, 3:]


def _find_span(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first pixel whose centre a triangle [F, 3] can cover along an axis, and how many there are."""
    first = np.clip(np.ceil(values.min(1) - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.floor(values.max(1) - 0.5), -1, size - 1).astype(np.int64)
    return first, np.maximum(last - first + 1, 0)


def _split_into_batches(counts: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the faces that cover anything, split where their pairs fill a batch."""
    covering = np.flatnonzero(counts)
    batch = np.cumsum(counts[covering]) // _PAIRS
    return np.split(covering, np.flatnonzero(np.diff(batch)) + 1) if len(covering) else []


def _barycentric(x: np.ndarray, y: np.ndarray, px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares [P, 3] of the corners (x, y: [P, 3]) at points [P], and whether the points are inside [P]."""
    parts = [(x[:, j] - px) * (y[:, k] - py) - (x[:, k] - px) * (y[:, j] - py) for j, k in ((1, 2), (2, 0), (0, 1))]
    area = np.stack(parts, 1)
    total = area.sum(1, keepdims=True)
    share = area / np.where(total == 0, 1, total)
    return share, (share >= 0).all(1) & (total[:, 0] != 0)
