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

"""Paint textures: the albedo at the point of the surface that each texel shows, and how the finer surface leans there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.geometry import smooth_normals
from nemo_dreamfusion.export.raster import find_covered, to_texels
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
    texel, points = find_texels(np.concatenate([vertices, smooth_normals(vertices, faces)], -1), faces, uv, size)
    return _fill(texel, to_uint8(color_fn(points[:, :3], _unit(points[:, 3:]))), size)


def bake_normals(
    vertices: np.ndarray,
    faces: np.ndarray,
    uv: np.ndarray,
    tangents: np.ndarray,
    size: int,
    normal_fn: Callable[[np.ndarray], np.ndarray],  # positions [N, 3] -> unit normals [N, 3]
) -> np.ndarray:
    """Return the normal map [size, size, 3] uint8: the normals of a finer surface in the axes of the tangent space.

    Args:
        vertices: [V, 3].
        faces: [F, 3].
        uv: [V, 2] in [0, 1], v from the top row down.
        tangents: [V, 4], of :func:`~nemo_dreamfusion.export.geometry.make_tangents`.
        size: texels of a side.
        normal_fn: of the finer surface, near points of the coarse one.
    """
    own = smooth_normals(vertices, faces)
    up = np.cross(own, tangents[:, :3]) * tangents[:, 3:]
    texel, points = find_texels(np.concatenate([vertices, tangents[:, :3], up, own], -1), faces, uv, size)
    axes = points[:, 3:].reshape(-1, 3, 3).astype(np.float64)  # rows: tangent, bitangent, normal, as a viewer has them
    flat = np.abs(np.linalg.det(axes)) < 1e-3
    axes[flat] = np.eye(3)
    local = np.linalg.solve(axes.transpose(0, 2, 1), normal_fn(points[:, :3])[..., None].astype(np.float64))[..., 0]
    local[flat] = (0, 0, 1)
    local[:, 2] = np.maximum(local[:, 2], 0.05)  # none leans below the surface
    return _fill(texel, to_uint8((_unit(local) + 1) / 2), size)


def nearest_normals(vertices: np.ndarray, faces: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from positions [N, 3] to the smooth normals [N, 3] of a mesh there.

    Each is the mean over the four nearest vertices, weighted by the inverse square of their distances.
    """
    from scipy.spatial import cKDTree

    normals, tree = smooth_normals(vertices, faces), cKDTree(vertices)

    def look_up(positions: np.ndarray) -> np.ndarray:
        distance, index = tree.query(positions, k=min(4, len(vertices)))
        weight = 1 / (np.atleast_2d(distance.T).T ** 2 + 1e-12)
        return _unit((weight[..., None] * normals[np.atleast_2d(index.T).T]).sum(1))

    return look_up


def find_texels(values: np.ndarray, faces: np.ndarray, uv: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the texels [N], flat, whose centres lie on a triangle, and the vertices' values [V, C] there, [N, C].

    A triangle smaller than a texel may hold no centre: the texels of its corners are there too, with the corners' values.
    """
    covered, face, share = find_covered(uv, faces, size)
    values = values.astype(np.float32)
    inside = sum(share[:, k, None] * values[faces[face, k]] for k in range(3))
    corner_column, corner_row = np.clip(to_texels(uv, size).astype(np.int64), 0, size - 1)
    # The corners last: a texel whose centre is covered keeps that
    texel, first = np.unique(np.concatenate([covered, corner_row * size + corner_column]), return_index=True)
    return texel, np.concatenate([inside, values])[first]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _fill(texel: np.ndarray, colors: np.ndarray, size: int) -> np.ndarray:
    """Return a texture [size, size, 3] of colours [N, 3] uint8 at texels [N], with its gutters filled."""
    texture, covered = np.zeros((size * size, 3), np.uint8), np.zeros(size * size, bool)
    texture[texel], covered[texel] = colors, True
    return fill_gutters(texture.reshape(size, size, 3), covered.reshape(size, size))


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
