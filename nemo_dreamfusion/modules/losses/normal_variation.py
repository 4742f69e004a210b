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

"""A regulariser that asks for smooth or flat faces and leaves sharp edges: the total variation of the normal."""

from __future__ import annotations

from torch import Tensor

from nemo_dreamfusion.modules.losses.normal_consistency import face_normals, face_pairs

EPSILON = 0.05  # of a difference of normals, below which it counts by its square


def normal_variation(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean difference of the unit normals on both sides of an edge, by its length: scalar, 0 without pairs.

    One sharp edge costs as much as the same turn spread over many, while a mean of squares
    (:func:`~nemo_dreamfusion.modules.losses.normal_consistency.normal_consistency`) makes edges round and the faces between
    them bulge (Bergmann et al., 2020, https://arxiv.org/abs/1902.07240). A difference d counts as
    sqrt(d^2 + ``EPSILON``^2) - ``EPSILON``; the lengths' own gradient is left out.

    Args:
        vertices: [V, 3].
        faces: [F, 3].

    >>> import torch
    >>> square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    >>> normal_variation(square, faces)
    tensor(0.)
    """
    normals = face_normals(vertices, faces)
    first, second, edge = face_pairs(faces, len(vertices))
    ends = vertices.detach()[edge]  # [P, 2, 3]
    length = (ends[:, 0] - ends[:, 1]).norm(dim=1)
    turn = (normals.index_select(0, first) - normals.index_select(0, second)).square().sum(1)
    cost = (turn + EPSILON**2).sqrt() - EPSILON
    return (length * cost).sum() / length.sum().clamp(min=1e-12)
