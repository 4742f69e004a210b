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

"""The tetrahedral surface: its grid, all cases of its tables, volumes of known shapes, and a fit to masks."""

import math

import pytest
import torch
from meshes import to_clip
from refusals import refusal

from nemo_dreamfusion.modules.nerf.dmtet import (
    EDGES,
    TetrahedralSurface,
    bcc_grid,
    marching_tables,
    marching_tetrahedra,
)
from nemo_dreamfusion.ops.antialias import antialias
from nemo_dreamfusion.ops.rasterise import rasterise

pytestmark = pytest.mark.unit


def volumes(points, tetrahedra):
    a, b, c, d = points[tetrahedra].unbind(1)
    return (torch.linalg.cross(b - a, c - a) * (d - a)).sum(1) / 6


def enclosed(mesh):
    """The volume inside a closed mesh; negative where its faces look inward."""
    a, b, c = mesh.vertices.detach().double()[mesh.faces].unbind(1)
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


def is_closed(faces):
    """Whether each side of a face is the side of exactly one other, run the other way."""
    sides = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys, back = (s[:, 0] * (int(faces.max()) + 1) + s[:, 1] for s in (sides, sides.flip(1)))
    return len(keys.unique()) == len(keys) and torch.equal(keys.sort().values, back.sort().values)


@pytest.mark.parametrize('cells', [3, 8])
def test_the_grids_tetrahedra_are_congruent_and_fill_the_box(cells):
    grid = bcc_grid(cells, 1.5)
    assert len(grid.tetrahedra) == 12 * cells**2 * (cells - 1)
    found = volumes(grid.vertices, grid.tetrahedra)
    torch.testing.assert_close(found, torch.full_like(found, (3.0 / cells) ** 3 / 12), rtol=1e-4, atol=0)
    lengths = (
        torch.stack(
            [
                (grid.vertices[grid.tetrahedra[:, i]] - grid.vertices[grid.tetrahedra[:, j]]).norm(dim=1)
                for i, j in EDGES
            ],
            1,
        )
        .sort(1)
        .values
    )
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths), rtol=1e-4, atol=0)


def test_the_boundary_is_the_grids_hull():
    """A triangle that belongs to one tetrahedron only is on the hull."""
    grid = bcc_grid(5, 1.0)
    triples = torch.cat([grid.tetrahedra[:, [i for i in range(4) if i != k]] for k in range(4)]).sort(1).values
    found, counts = triples.unique(dim=0, return_counts=True)
    assert counts.max() == 2
    hull = torch.zeros(len(grid.vertices), dtype=torch.bool)
    hull[found[counts == 1].flatten()] = True
    hull[: 6**3] |= (grid.vertices[: 6**3].abs() > 0.99).any(1)  # corners in no tetrahedron
    assert torch.equal(hull, grid.boundary)


@pytest.mark.parametrize('case', range(16))
def test_each_case_cuts_the_inside_off_and_looks_outward(case):
    """The triangles and the inner part of the tetrahedron's faces enclose the inner part's volume."""
    torch.manual_seed(case)
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double() + 0.2 * torch.rand(4, 3)
    inside = torch.tensor([bool(case >> i & 1) for i in range(4)])
    distance = torch.where(inside, -1.0, 1.0).double() * (0.2 + torch.rand(4))
    mesh = marching_tetrahedra(points, distance, torch.tensor([[0, 1, 2, 3]]))
    vertices, faces = mesh.vertices, mesh.faces
    n_inside = int(inside.sum())
    assert len(faces) == {0: 0, 1: 1, 2: 2, 3: 1, 4: 0}[n_inside] == marching_tables()[1][case]
    assert len(vertices) == n_inside * (4 - n_inside) and faces.unique().numel() == len(vertices)
    slope = torch.linalg.solve(points[1:] - points[0], distance[1:] - distance[0])  # of the linear distance
    torch.testing.assert_close(vertices @ slope, (points[0] @ slope - distance[0]).expand(len(vertices)))
    for a, b, c in vertices[faces]:
        assert torch.linalg.cross(b - a, c - a) @ slope > 0
    if len(faces) == 2:  # the two halves of a quadrilateral: one common side, run both ways
        sides = {(int(f[i]), int(f[(i + 1) % 3])) for f in faces for i in range(3)}
        assert sum((b, a) in sides for a, b in sides) == 2


def test_random_signs_give_a_closed_mesh_of_every_case():
    torch.manual_seed(0)
    grid = bcc_grid(8, 1.0)
    distance = torch.where(grid.boundary, 1.0, torch.randn(len(grid.vertices)))
    distance[::7] = torch.where(grid.boundary[::7], 1.0, 0.0)  # zero counts as outside
    cases = ((distance < 0)[grid.tetrahedra] * torch.tensor([1, 2, 4, 8])).sum(1)
    assert cases.unique().tolist() == list(range(16))
    mesh = marching_tetrahedra(grid.vertices, distance, grid.tetrahedra)
    assert is_closed(mesh.faces) and enclosed(mesh) > 0


def ellipsoid(p):
    return ((p / torch.tensor([0.8, 0.5, 0.6])).norm(dim=1) - 1) * 0.5


def torus(p):
    return torch.stack([p[:, [0, 2]].norm(dim=1) - 0.55, p[:, 1]], 1).norm(dim=1) - 0.25


def box(p):
    return (p.abs() - torch.tensor([0.5, 0.3, 0.6])).amax(1)


SHAPES = [
    (ellipsoid, 4 / 3 * math.pi * 0.8 * 0.5 * 0.6, 2),
    (torus, 2 * math.pi**2 * 0.55 * 0.25**2, 0),
    (box, 8 * 0.5 * 0.3 * 0.6, 2),
]


@pytest.mark.parametrize(('shape', 'volume', 'euler'), SHAPES)
def test_volumes_of_known_shapes(shape, volume, euler):
    surface = TetrahedralSurface(cells=48)
    surface.start_from_distance(shape(surface.grid_vertices))
    mesh = surface()
    assert enclosed(mesh) == pytest.approx(volume, rel=0.01)
    assert is_closed(mesh.faces)
    assert len(mesh.vertices) - len(mesh.faces) // 2 == euler  # V - E + F with 2 E = 3 F


def test_no_displacement_turns_a_tetrahedron_inside_out():
    torch.manual_seed(0)
    surface = TetrahedralSurface(cells=6)
    for _ in range(20):
        shift = surface.reach * torch.randn_like(surface.shift).sign()
        assert (volumes(surface.grid_vertices + shift, surface.tetrahedra) > 0).all()


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    points = torch.cat([torch.zeros(1, 3), torch.eye(3), torch.ones(1, 3)]).double() + 0.1 * torch.rand(5, 3)
    distance = torch.tensor([-0.7, 0.4, 0.9, -0.3, 0.5], dtype=torch.float64)
    inputs = points.requires_grad_(), distance.requires_grad_()
    tetrahedra = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    assert torch.autograd.gradcheck(lambda p, d: marching_tetrahedra(p, d, tetrahedra).vertices, inputs)


def test_a_surface_at_the_hull_is_closed_all_the_same():
    surface = TetrahedralSurface(cells=5)
    surface.start_from_distance(-torch.ones_like(surface.distance))
    assert is_closed(surface().faces)


def masks(mesh, views, size):
    clip = torch.stack([to_clip(mesh.vertices, *view) for view in views])
    raster = rasterise(clip, mesh.faces, size, size, cull_back_faces=True)
    return antialias((raster.face_ids >= 0).float()[..., None], raster, clip, mesh.faces)


def overlap(mesh, truth, views, size):
    """Intersection over union of the masks."""
    with torch.no_grad():
        found, expected = masks(mesh, views, size), masks(truth, views, size)
    return float(torch.minimum(found, expected).sum() / torch.maximum(found, expected).sum())


@pytest.mark.parametrize(('cells', 'size'), [(14, 64), pytest.param(32, 96, marks=pytest.mark.slow)])
def test_an_ellipsoid_is_fitted_to_six_masks(cells, size):
    """From a ball that overlaps by 0.63. Six masks leave the shape between them open, so other sides fit less well."""
    whole = TetrahedralSurface(cells=40)
    whole.start_from_distance(ellipsoid(whole.grid_vertices))
    truth, surface = whole(), TetrahedralSurface(cells=cells)
    given = [(0.0, 0.0), (1.57, 0.0), (0.8, 0.6), (2.4, -0.6), (0.0, 1.4), (-0.8, 0.2)]
    others = [(0.4, 0.3), (1.2, -0.4), (2.0, 0.9), (-0.4, -0.8)]
    target = masks(truth, given, size).detach()
    optimizer = torch.optim.Adam(surface.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        (masks(surface(), given, size) - target).square().mean().backward()
        optimizer.step()
    assert overlap(surface(), truth, given, size) >= 0.97
    assert overlap(surface(), truth, others, size) >= 0.9
    assert is_closed(surface().faces)


def test_bad_input_is_refused_with_a_way_out():
    with refusal('model.renderer.surface.cells', 2, 3):
        TetrahedralSurface(cells=2)
    surface = TetrahedralSurface(cells=4)
    with refusal('distance', '0.1 and more', 'Lower the level'):
        surface.start_from_distance(torch.full_like(surface.distance, 0.1))
    with refusal('distance', '(3,)', '(189,)'):
        surface.start_from_distance(torch.zeros(3))
