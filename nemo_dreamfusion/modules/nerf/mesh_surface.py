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
"""The triangles of a mesh of one's own: they stay as they are, or move together by a bounded distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.nerf.base import Surface
from nemo_dreamfusion.modules.nerf.lattice import AnySize, interpolate_lattice
from nemo_dreamfusion.parts.checks import check_positive, check_range
from nemo_dreamfusion.parts.types import FileMesh, TriangleMesh

PACE = 5.0  # of the lattice beside the other weights, whose learning rate it shares


class MeshSurface(AnySize, Surface):
    """A mesh whose vertices follow a lattice of displacements (free-form deformation: Sederberg and Parry, 1986).

    Vertices at one place move together, so that seams stay closed, whatever the triangles are like. A vertex moves by
    ``reach`` d / sqrt(1 + |d|^2), never farther than ``reach``; d is ``PACE`` times what is learnt, linear between the
    lattice's points.

    Args:
        bound: half the side of the box, world units.
        reach: how far a vertex may move, world units.
        cells: cells of the lattice along each axis.

    Raises:
        ValueError: for a value out of range.

    >>> len(MeshSurface()().faces)  # a ball, until it starts from a mesh
    512
    """

    ANY_SIZE = ('vertices', 'faces', 'file_vertices', 'file_faces', 'file_uv', 'placement')
    keeps_triangles = True
    vertices: Tensor  # [V, 3]
    faces: Tensor  # [F, 3]
    file_vertices: Tensor | None  # these and the next as a FileMesh has them; None where there is no file
    file_faces: Tensor
    file_uv: Tensor
    placement: Tensor

    def __init__(self, *, bound: float = 1.0, reach: float = 0.15, cells: int = 24) -> None:
        super().__init__()
        check_positive('model.renderer.surface.bound', bound)
        self.bound, self.closed = float(bound), False  # a file's triangles may look any way
        self.reach = float(check_range('model.renderer.surface.reach', reach, 0, 2 * bound, low_open=True))
        check_range('model.renderer.surface.cells', cells, 1, 128, integer=True)
        vertices, faces = ball(0.5 * bound)
        self.register_buffer('vertices', vertices)
        self.register_buffer('faces', faces)
        for name in self.ANY_SIZE[2:]:
            self.register_buffer(name, None)
        self.shift: nn.Parameter | None = nn.Parameter(torch.zeros(cells + 1, cells + 1, cells + 1, 3))

    def keep_shape(self) -> None:
        self.shift, self.keeps_shape = None, True

    def start_from(self, mesh: TriangleMesh, file: FileMesh | None = None) -> None:
        """Take the triangles of a mesh, which must lie in the box, as they are."""
        device = self.vertices.device
        self.vertices, self.faces = mesh.vertices.detach().float().to(device), mesh.faces.to(device)
        if file is not None:
            self.file_vertices, self.file_faces = file.vertices.to(device), file.faces.to(device)
            self.file_uv, self.placement = file.uv.to(device), file.placement.to(device)

    @torch.no_grad()
    def as_in_file(self) -> FileMesh | None:
        if self.file_vertices is None:
            return None
        vertices = self.file_vertices
        if not self.keeps_shape:
            turn, origin = self.placement[:, :3].double(), self.placement[:, 3].double()
            world = (vertices.double() @ turn.T + origin).float()
            vertices = ((self.move(world).double() - origin) @ torch.linalg.inv(turn).T).float()
        return FileMesh(vertices, self.file_faces, self.file_uv, self.placement)

    def forward(self) -> TriangleMesh:
        return TriangleMesh(self.move(self.vertices), self.faces)

    def move(self, points: Tensor) -> Tensor:
        """Return where points [N, 3] of the first shape are now."""
        if self.shift is None:
            return points
        shift = PACE * interpolate_lattice(self.shift, points, self.bound)
        return points + self.reach * shift * (1 + shift.square().sum(1, keepdim=True)).rsqrt()


def ball(radius: float, subdivisions: int = 3) -> tuple[Tensor, Tensor]:
    """Return a ball of 8 * 4^subdivisions triangles: an octahedron, whose faces are divided: vertices, faces."""
    vertices = torch.cat([torch.eye(3), -torch.eye(3)])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    for _ in range(subdivisions):
        corners = vertices[faces]  # [F, 3, 3]
        middles = torch.nn.functional.normalize(corners + corners.roll(-1, 1), dim=-1)  # of a-b, b-c, c-a
        (a, b, c), (ab, bc, ca) = corners.unbind(1), middles.unbind(1)
        parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        soup = torch.stack([torch.stack(part, 1) for part in parts], 1).view(-1, 3)
        vertices, number = torch.unique((soup * 1e6).round(), dim=0, return_inverse=True)
        vertices, faces = torch.nn.functional.normalize(vertices, dim=1), number.view(-1, 3)
    return radius * vertices, faces
