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
"""A surface that can change its topology: a signed distance on a tetrahedral grid, and the mesh of its zero set.

DMTet: Shen et al., 2021, https://arxiv.org/abs/2111.04276. The grid is the body-centred cubic one (all tetrahedra are
congruent) and is made here, as are the tables of marching tetrahedra.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.nerf.base import Surface
from nemo_dreamfusion.modules.nerf.signed_distance import signed_distance
from nemo_dreamfusion.parts.checks import check_positive, check_range, refuse
from nemo_dreamfusion.parts.types import FileMesh, TriangleMesh

EDGES = list(combinations(range(4), 2))  # of a tetrahedron: (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)


class TetrahedralGrid(NamedTuple):
    """A box filled with tetrahedra."""

    vertices: Tensor  # [V, 3]
    tetrahedra: Tensor  # [T, 4] int64, each of positive volume
    boundary: Tensor  # [V] bool, the vertices on the grid's hull
    spacing: float  # the side of a cubic cell


class TetrahedralSurface(Surface):
    """A signed distance and a displacement at each vertex of a grid, both learnt.

    A vertex moves by up to ``displacement`` cells along each axis: with 0.2 or less no tetrahedron turns inside out, so the
    mesh stays closed and does not cut itself. The grid's hull counts as outside.

    Args:
        cells: cells along each axis; n^3 cells have about 2 n^3 vertices and 12 n^3 tetrahedra. A triangle is about half a
            cell wide: 32 cells suit an image of 256 pixels, 52 one of 512.
        bound: half the side of the box, world units.
        displacement: how far a vertex may move, in cells.

    Raises:
        ValueError: for a value out of range.

    >>> surface = TetrahedralSurface(cells=8)
    >>> mesh = surface()  # a ball of half the box's size
    >>> mesh.vertices.norm(dim=1).mean().round(decimals=1)
    tensor(0.5000, grad_fn=<RoundBackward1>)
    """

    grid_vertices: Tensor
    tetrahedra: Tensor
    boundary: Tensor

    def __init__(self, *, cells: int = 32, bound: float = 1.0, displacement: float = 0.2) -> None:
        super().__init__()
        check_range('model.renderer.surface.cells', cells, 3, 256, integer=True)
        check_positive('model.renderer.surface.bound', bound)
        check_range('model.renderer.surface.displacement', displacement, 0, 0.5)
        self.bound, self.closed = float(bound), True
        grid = bcc_grid(cells, bound)
        self.spacing, self.reach = grid.spacing, displacement * grid.spacing
        self.register_buffer('grid_vertices', grid.vertices, persistent=False)
        self.register_buffer('tetrahedra', grid.tetrahedra, persistent=False)
        self.register_buffer('boundary', grid.boundary, persistent=False)
        self.distance = nn.Parameter(grid.vertices.norm(dim=1) - 0.5 * bound)
        self.shift = nn.Parameter(torch.zeros_like(grid.vertices))

    def start_from(self, mesh: TriangleMesh, file: FileMesh | None = None) -> None:
        """Take the shape of a mesh by its true distance.

        Raises:
            ValueError: for a mesh that encloses nothing of the grid's size.
        """
        distance = signed_distance(self.grid_vertices.cpu(), mesh, bound=self.bound, sheet=self.spacing)
        self.start_from_distance(distance.to(self.distance))

    @torch.no_grad()
    def start_from_distance(self, distance: Tensor) -> None:
        """Take a first shape: the signed distance [V] at ``grid_vertices``, world units, negative inside.

        Raises:
            ValueError: for a distance that is not finite, or nowhere (or everywhere) negative away from the hull.
        """
        if distance.shape != self.distance.shape or not distance.isfinite().all():
            refuse('distance', tuple(distance.shape), f'{tuple(self.distance.shape)} finite numbers')
        if not (distance[~self.boundary] < 0).any():
            refuse(
                'distance', f'{float(distance.min()):g} and more', 'negative inside of the object', 'Lower the level.'
            )
        self.distance.copy_(distance)
        self.shift.zero_()

    def forward(self) -> TriangleMesh:
        """Return the surface, differentiable with respect to distance and displacement."""
        positions = self.grid_vertices + self.reach * self.shift.tanh()
        outside = self.distance.clamp(min=1e-3 * self.spacing)
        distance = torch.where(self.boundary, outside, self.distance)
        return marching_tetrahedra(positions, distance, self.tetrahedra, self.spacing)


def bcc_grid(cells: int, bound: float) -> TetrahedralGrid:
    """Return the body-centred cubic grid of the box [-bound, bound]^3.

    Its vertices are the corners and the centres of cubic cells. Between two neighbouring cells stand four tetrahedra, each
    of both centres and one side of the square that the cells share. At the box's faces nothing stands.

    >>> grid = bcc_grid(4, 1.0)
    >>> len(grid.vertices), len(grid.tetrahedra)
    (189, 576)
    """
    spacing = 2 * bound / cells
    corner, centre = (torch.cartesian_prod(*[torch.arange(n)] * 3) for n in (cells + 1, cells))
    points = torch.cat([corner * spacing, (centre + 0.5) * spacing]) - bound
    ends = [(x == 0).any(1) | (x == last).any(1) for x, last in ((corner, cells), (centre, cells - 1))]
    tetrahedra = []
    for axis in range(3):
        first = centre[centre[:, axis] < cells - 1]  # the cell before a shared square
        step, u, v = (torch.eye(3, dtype=torch.int64)[(axis + k) % 3] for k in range(3))
        square = [_number(first + step + offset, cells + 1) for offset in (0 * u, u, u + v, v)]
        a, b = (_number(c, cells) + len(corner) for c in (first, first + step))
        for k in range(4):
            tetrahedra.append(torch.stack([a, b, square[k], square[(k + 1) % 4]], 1))
    return TetrahedralGrid(points, torch.cat(tetrahedra), torch.cat(ends), spacing)


def _number(index: Tensor, size: int) -> Tensor:
    """Return the number of points [N, 3] of a cube of ``size`` points along each axis."""
    return (index[:, 0] * size + index[:, 1]) * size + index[:, 2]


@cache
def marching_tables() -> tuple[Tensor, Tensor]:
    """Return the triangles that cut a tetrahedron: edges [16, 2, 3] and how many triangles [16].

    Case k has vertex i inside where bit i of k is set. A triangle's corners lie on three of ``EDGES``, counterclockwise
    seen from outside, in a tetrahedron of positive volume.
    """
    vertices = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    table, counts = torch.zeros(16, 2, 3, dtype=torch.int64), torch.zeros(16, dtype=torch.int64)
    for case in range(1, 15):
        inside = [i for i in range(4) if case >> i & 1]
        outside = [i for i in range(4) if not case >> i & 1]
        # Once around the cut: neighbours in this order lie on one face of the tetrahedron.
        around = [(i, o) for k, i in enumerate(inside) for o in (outside if k == 0 else outside[::-1])]
        middles = torch.stack([vertices[[i, o]].mean(0) for i, o in around])
        normal = torch.linalg.cross(middles[1] - middles[0], middles[2] - middles[0])
        if normal @ (vertices[outside].mean(0) - vertices[inside].mean(0)) < 0:
            around.reverse()
        edges = [EDGES.index((min(pair), max(pair))) for pair in around]
        triangles = [edges[:3]] if len(edges) == 3 else [edges[:3], [edges[0], *edges[2:]]]
        counts[case] = len(triangles)
        table[case, : len(triangles)] = torch.tensor(triangles)
    return table, counts


def marching_tetrahedra(positions: Tensor, distance: Tensor, tetrahedra: Tensor, spacing: float = 1.0) -> TriangleMesh:
    """Return the surface where the distance, linear along each edge, is zero.

    Doi and Koide, "An efficient method of triangulating equi-valued surfaces by using tetrahedral cells" (1991).

    Args:
        positions: [V, 3].
        distance: [V], negative inside; zero counts as outside.
        tetrahedra: [T, 4] int64, of positive volume.
        spacing: the unit of ``crossings``.

    Returns:
        Its vertices are differentiable with respect to ``positions`` and ``distance``. It is closed where the outside
        includes the hull of the tetrahedra.
    """
    device, n = positions.device, len(positions)
    inside = distance.detach() < 0
    case = (inside[tetrahedra] * torch.tensor([1, 2, 4, 8], device=device)).sum(1)
    cut = ((case > 0) & (case < 15)).nonzero()[:, 0]
    case, ends = case[cut], tetrahedra[cut][:, torch.tensor(EDGES, device=device)]  # [K, 6, 2]
    crossing = inside[ends[..., 0]] != inside[ends[..., 1]]
    keys = ends.amin(-1) * n + ends.amax(-1)
    edges, number = torch.unique(keys[crossing], return_inverse=True)
    numbers = torch.zeros_like(keys).masked_scatter(crossing, number)
    table, counts = (t.to(device) for t in marching_tables())
    faces = numbers.gather(1, table[case].flatten(1)).view(-1, 2, 3)
    faces = faces[torch.arange(2, device=device) < counts[case][:, None]]
    a, b = edges // n, edges % n
    at_a, at_b = distance.index_select(0, a), distance.index_select(0, b)
    share = (at_a / (at_a - at_b))[:, None]
    from_a, to_b = positions.index_select(0, a), positions.index_select(0, b)
    return TriangleMesh(from_a + share * (to_b - from_a), faces, torch.stack([at_a, at_b], 1) / spacing)
