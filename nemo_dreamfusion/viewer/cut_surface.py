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

"""Triangles of which only what lies in a box is left: the box that cuts an object open."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.modules.nerf.base import Surface
from nemo_dreamfusion.parts.types import TriangleMesh

Box = tuple[tuple[float, float], ...]  # lowest and highest x, y and z


class CutSurface(Surface):
    """A surface cut off at the sides of a box, where one looks into it.

    Args:
        surface: the whole.
        box: shares of its bound.
    """

    def __init__(self, surface: Surface, box: Box) -> None:
        super().__init__()
        self.surface, self.box = surface, box
        self.bound, self.closed = surface.bound, False

    def forward(self) -> TriangleMesh:
        return cut(self.surface(), self.box, self.bound)


def cut(mesh: TriangleMesh, box: Box, bound: float = 1.0) -> TriangleMesh:
    """Return what lies in a box, whose sides are shares of ``bound``; triangles that cross one are divided there.

    >>> mesh = TriangleMesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    >>> len(cut(mesh, ((-1.0, 0.5), (-1.0, 1.0), (-1.0, 1.0))).faces), len(cut(mesh, ((0.5, 1.0),) * 3).faces)
    (2, 0)
    """
    for axis, (low, high) in enumerate(box):
        for side, edge in ((1.0, low), (-1.0, high)):
            if side * edge > -1.0:
                mesh = _cut_at(mesh, axis, side, bound * edge)
    return mesh


def _cut_at(mesh: TriangleMesh, axis: int, side: float, edge: float) -> TriangleMesh:
    """Return what lies on one side of a plane across an axis: above it for side 1, below it for -1."""
    vertices, faces = mesh.vertices, mesh.faces
    height = side * (vertices[:, axis] - edge)
    inside = (height >= 0)[faces]  # [F, 3]
    count = inside.sum(1)
    one, two = faces[count == 1], faces[count == 2]
    # The corner that is alone on its side comes first
    a, b, c = _turned(one, inside[count == 1].int().argmax(1)).T
    d, e, f = _turned(two, inside[count == 2].int().argmin(1)).T
    start, end = torch.cat([a, a, d, d]), torch.cat([b, c, e, f])
    share = (height[start] / (height[start] - height[end]))[:, None]
    crossing = vertices[start] + share * (vertices[end] - vertices[start])
    number = torch.arange(len(start), device=faces.device) + len(vertices)
    ab, ac, de, df = number.split([len(a), len(a), len(d), len(d)])
    parts = [torch.stack([a, ab, ac], 1), torch.stack([e, f, df], 1), torch.stack([e, df, de], 1)]
    return TriangleMesh(torch.cat([vertices, crossing]), torch.cat([faces[count == 3], *parts]))


def _turned(faces: Tensor, first: Tensor) -> Tensor:
    """Return faces [F, 3] whose corners begin with the one at ``first`` [F], in the same sense."""
    return faces.gather(1, (first[:, None] + torch.arange(3, device=faces.device)) % 3)
