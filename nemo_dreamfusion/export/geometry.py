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

"""What the writers of meshes share: welded vertices, smooth normals."""

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
    total = np.zeros((len(distinct), 3))
    for corner in welded.T:
        for axis in range(3):
            total[:, axis] += np.bincount(corner, across[:, axis], len(distinct))
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    unit = np.where(length > 1e-20, total / np.maximum(length, 1e-20), (0.0, 1.0, 0.0))
    return unit.astype(np.float32)[number]
