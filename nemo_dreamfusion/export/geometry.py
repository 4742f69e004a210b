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

"""What the writers of meshes share: welded vertices, smooth normals, tangents."""

from __future__ import annotations

import numpy as np


def weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join vertices at one place, as seams of an atlas leave them: distinct ones [U, 3], faces [F, 3], new numbers [V]."""
    distinct, number = np.unique(vertices, axis=0, return_inverse=True)
    number = number.reshape(-1)
    return distinct, number[faces], number


def smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return unit normals [V, 3] float32: sums over the faces at a vertex, by area, the same on both sides of a seam.

    Where they cancel out, or a vertex has no face, it is +y.
    """
    distinct, welded, number = weld(vertices, faces)
    a, b, c = distinct[welded].astype(np.float64).transpose(1, 0, 2)
    across = np.cross(b - a, c - a)  # twice the area long
    total = _sum_at_corners(welded, across, len(distinct))
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    unit = np.where(length > 1e-20, total / np.maximum(length, 1e-20), (0.0, 1.0, 0.0))
    return unit.astype(np.float32)[number]


def make_tangents(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Return the tangents of glTF, [V, 4] float32: unit vectors across the normals toward growing u, and a sign.

    cross(normal, tangent) * sign points up in the texture, toward falling v, as the green of a normal map counts.

    Args:
        vertices: [V, 3].
        faces: [F, 3]; no vertex of them belongs to two charts.
        uv: [V, 2], v from the texture's top row down.
        normals: [V, 3] unit.
    """
    a, b, c = vertices[faces].astype(np.float64).transpose(1, 0, 2)
    (u1, v1), (u2, v2) = ((uv[faces[:, i]] - uv[faces[:, 0]]).astype(np.float64).T for i in (1, 2))
    area = u1 * v2 - u2 * v1
    # dP/du and dP/dv times the area on the texture: larger triangles count more
    along = np.sign(area)[:, None] * (v2[:, None] * (b - a) - v1[:, None] * (c - a))
    down = np.sign(area)[:, None] * (u1[:, None] * (c - a) - u2[:, None] * (b - a))
    toward_u, toward_v = (_sum_at_corners(faces, values, len(vertices)) for values in (along, down))
    n = normals.astype(np.float64)
    tangent = toward_u - (toward_u * n).sum(-1, keepdims=True) * n
    length = np.linalg.norm(tangent, axis=-1, keepdims=True)
    other = np.cross(n, np.where(np.abs(n[:, :1]) < 0.9, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))  # where u does not grow
    tangent = np.where(length > 1e-12, tangent / np.maximum(length, 1e-12), other)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    sign = np.where((np.cross(n, tangent) * toward_v).sum(-1) > 0, -1.0, 1.0)
    return np.concatenate([tangent, sign[:, None]], -1).astype(np.float32)


def _sum_at_corners(faces: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Return the sums [count, 3] over the faces [F, 3] at each vertex of their values [F, 3]."""
    total = np.zeros((count, 3))
    for corner in faces.T:
        for axis in range(3):
            total[:, axis] += np.bincount(corner, values[:, axis], count)
    return total
