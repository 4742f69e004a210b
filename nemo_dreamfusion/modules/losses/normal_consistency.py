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
"""A regulariser that asks for smooth surfaces of triangles: neighbouring faces should look the same way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normal_consistency(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean of 1 - cos(angle) over all pairs of faces at an edge: [V, 3], [F, 3] -> scalar, 0 without pairs.

    NeMo's ``lambda_mesh_normal``. At an edge of more than two faces each is paired with the next.

    >>> square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    >>> normal_consistency(square, faces)
    tensor(0.)
    >>> square[3] = torch.tensor([0.5, 0.5, 0.5**0.5])  # folded to a right angle
    >>> normal_consistency(square, faces)
    tensor(1.)
    """
    normals = face_normals(vertices, faces)
    first, second, _ = face_pairs(faces, len(vertices))
    cosine = (normals.index_select(0, first) * normals.index_select(0, second)).sum(1)
    return (1 - cosine).sum() / max(len(first), 1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the unit normals of triangles, 0 for one without an area: [V, 3], [F, 3] -> [F, 3]."""
    a, b, c = (vertices.index_select(0, corner) for corner in faces.T)
    return F.normalize(torch.linalg.cross(b - a, c - a), dim=1, eps=1e-20)


def face_pairs(faces: Tensor, n_vertices: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the faces on both sides of each edge that has two, [P], [P], and that edge's vertices [P, 2]."""
    low, high = (f(faces, faces.roll(-1, 1)).T.flatten() for f in (torch.minimum, torch.maximum))
    keys, order = (low * n_vertices + high).sort(stable=True)
    same = (keys[1:] == keys[:-1]).nonzero()[:, 0]
    face = order % max(len(faces), 1)
    return face[same], face[same + 1], torch.stack([keys[same] // n_vertices, keys[same] % n_vertices], 1)
