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
"""A regulariser that draws each vertex toward the middle of its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def laplacian_loss(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean distance of a vertex to the mean of its neighbours, in mean lengths of an edge: scalar.

    NeMo's ``lambda_mesh_laplacian``: the uniform Laplacian of Desbrun et al., 1999. In lengths of an edge, so that one
    weight suits fine and coarse meshes.

    Args:
        vertices: [V, 3].
        faces: [F, 3].

    >>> corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # of a tetrahedron
    >>> faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    >>> laplacian_loss(corners, faces)  # the others' middle lies 4 / 3 beyond the centre's sqrt(3); an edge has sqrt(8)
    tensor(0.8165)
    """
    start, end = faces.flatten(), faces.roll(-1, 1).flatten()
    start, end = (
        torch.cat([start, end]),
        torch.cat([end, start]),
    )  # an edge of two faces counts twice, at both its ends
    offset = vertices.index_select(0, end) - vertices.index_select(0, start)
    total = torch.zeros_like(vertices).index_add(0, start, offset)
    count = torch.bincount(start, minlength=len(vertices))
    used = count > 0
    step = (total / count.clamp(min=1)[:, None])[used]
    length = offset.detach().norm(dim=1).mean() if len(offset) else vertices.new_ones(())
    return (step.square().sum(1) + 1e-12).sqrt().sum() / max(len(step), 1) / length.clamp(min=1e-12)
