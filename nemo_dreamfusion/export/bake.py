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

"""Paint a texture: the field's albedo at the point of the surface that each texel shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.geometry import smooth_normals
from nemo_dreamfusion.export.raster import cover
from nemo_dreamfusion.export.stills import to_uint8


def bake(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    size: int,
    color_fn: Callable[[np.ndarray, np.ndarray], np.ndarray],  # positions, normals [N, 3] -> [N, 3] in [0, 1]
) -> np.ndarray:
    """Return the texture [size, size, 3] uint8; texels that show no surface take the colour of the nearest that does.

    Args:
        vertices: [V, 3].
        faces: [F, 3].
        uv: [V, 2] in [0, 1], v from the top row down.
        size: texels of a side.
        color_fn: display values at points of the surface, given with unit normals.
    """
    texel, positions, normals = find_texels(vertices, faces, uv, size)
    texture = np.zeros((size * size, 3), np.uint8)
    texture[texel] = to_uint8(color_fn(positions, normals))
    covered = np.zeros(size * size, bool)
    covered[texel] = True
    return fill_gutters(texture.reshape(size, size, 3), covered.reshape(size, size))


def find_texels(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the texels [N], flat, whose centres lie on a triangle, their points of the surface and normals [N, 3]."""
    # Rounded: float32 would move corners off the centres of texels
    column, row = np.round(uv.astype(np.float64) * size, 3).T
    corners = np.concatenate([vertices, smooth_normals(vertices, faces)], -1)
    texels, points = [np.zeros(0, np.int64)], [np.zeros((0, 6), np.float32)]
    for texel, face, share in cover(column, row, faces, size, size):
        texels.append(texel)
        points.append((share[..., None].astype(np.float32) * corners[faces[face]]).sum(1))
    texel, first = np.unique(np.concatenate(texels), return_index=True)  # one that lies on an edge has two triangles
    point = np.concatenate(points)[first]
    normal = point[:, 3:]
    return texel, point[:, :3], normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)


def fill_gutters(texture: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Give each texel of [T, T, C] that is not covered [T, T] the colour of the nearest one that is.

    The whole texture is filled, so that its smaller copies (mip-maps) do not take on a colour of nothing.
    """
    from scipy.ndimage import distance_transform_edt

    if not covered.any():
        return texture
    nearest = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return texture[nearest[0], nearest[1]]


def albedo_of(
    albedo_fn: Callable[[Tensor], Tensor],
    positions: np.ndarray,
    *,
    bound: float,
    device: torch.device | str,
    batch: int,
) -> np.ndarray:
    """Look up the albedo [N, 3] in [0, 1] at positions [N, 3], in batches, what is outside of the box on its face.

    Raises:
        ValueError: for colours that are not finite numbers.
    """
    inside = torch.from_numpy(np.ascontiguousarray(positions, np.float32)).clamp(-bound, bound)
    return check_colors(torch.cat([albedo_fn(part.to(device)).float().cpu() for part in inside.split(batch)]))


def check_colors(colors: Tensor) -> np.ndarray:
    """Return colours [N, 3], clipped to [0, 1].

    Raises:
        ValueError: where they are not finite numbers.
    """
    broken = int((~colors.isfinite()).any(-1).sum())
    if broken:
        raise ValueError(
            f'the field is broken: {broken} of {len(colors)} colours on its surface are not finite numbers. '
            'Take an earlier checkpoint, or train again with a lower model.optim.lr.'
        )
    return colors.clamp(0, 1).numpy()
