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

"""Distances to meshes whose distance is a formula; first shapes of fields and surfaces; the lattice that moves a mesh."""

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.modules.nerf.dmtet import TetrahedralSurface
from nemo_dreamfusion.modules.nerf.lattice import interpolate_lattice, lattice_points
from nemo_dreamfusion.modules.nerf.mesh_surface import MeshSurface, ball
from nemo_dreamfusion.modules.nerf.signed_distance import EXACT, VOXELS, signed_distance
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField
from nemo_dreamfusion.parts.types import TriangleMesh

pytestmark = pytest.mark.unit

BOX = torch.tensor([0.5, 0.3, 0.6])


def box():
    """Two triangles on each side, outward."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) * BOX
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    return TriangleMesh(corners, torch.tensor([[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)]))


def to_box(points):
    q = points.abs() - BOX
    return q.clamp(min=0).norm(dim=1) + q.amax(1).clamp(max=0)


@pytest.fixture(scope='module')
def points():
    return torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_distance_to_a_box_is_exact_near_it_and_its_sign_right_everywhere(points):
    found, expected = signed_distance(points, box(), bound=1.0, sheet=0.1), to_box(points)
    near = expected.abs() < (EXACT - 2) * 2 / VOXELS
    torch.testing.assert_close(found[near], expected[near], atol=1e-5, rtol=0)
    assert torch.equal(found < 0, expected < 0)
    assert (found - expected).abs().max() < 2 * 3**0.5 / VOXELS


def test_a_lid_that_is_ajar_is_closed_and_a_leaf_is_a_sheet(points):
    """A box with a slit counts as solid; a single triangle as a plate of the thickness that was asked for."""
    shape = box()
    lifted = shape.vertices + torch.tensor([0.0, 0.02, 0.0])
    lid = shape.faces[6:8] + 8  # the side of y = 0.3
    ajar = TriangleMesh(torch.cat([shape.vertices, lifted]), torch.cat([shape.faces[:6], shape.faces[8:], lid]))
    found, expected = signed_distance(points, ajar, bound=1.0, sheet=0.0), to_box(points)
    clear = expected.abs() > 0.05
    assert torch.equal((found < 0)[clear], (expected < 0)[clear])
    leaf = TriangleMesh(
        torch.tensor([[0.0, -0.9, -0.9], [0.0, 0.9, -0.9], [0.0, 0.0, 0.9]]), torch.tensor([[0, 1, 2]])
    )
    across = torch.tensor([[x, 0.0, 0.0] for x in (-0.06, -0.04, 0.0, 0.04, 0.06)])
    assert (signed_distance(across, leaf, bound=1.0, sheet=0.1) < 0).tolist() == [False, True, True, True, False]


def test_d29_a_mesh_of_nothing_is_refused(points):
    with refusal('the mesh', '3 vertices, 0 faces', 'one face or more'):
        signed_distance(points, TriangleMesh(torch.eye(3), torch.zeros(0, 3, dtype=torch.int64)), bound=1.0, sheet=0.1)
    surface = TetrahedralSurface(cells=5)
    surface.grid_vertices += 0.05  # no vertex of the grid is in a box so small
    with refusal('distance', NO_VALUE, 'negative inside of the object'):
        surface.start_from(TriangleMesh(box().vertices * 1e-3, box().faces))


def test_a_tetrahedral_surface_takes_a_meshs_shape():
    surface = TetrahedralSurface(cells=24)
    surface.start_from(box())
    vertices = surface().vertices.detach()
    assert to_box(vertices).abs().max() < 0.6 * surface.spacing and to_box(vertices).abs().mean() < 5e-3


@pytest.mark.parametrize('activation', ['softplus', 'exp'])
def test_a_fresh_field_holds_the_mesh_in_the_place_of_the_blob(activation, points):
    field = TorchNGPField(encoder_cfg={'num_levels': 2, 'log2_hashmap_size': 8}, density_activation=activation)
    plain = field.state_dict()
    field.start_from(box())
    density, distance = field.density(points).detach(), to_box(points)
    inside, outside = density[distance < -0.1], density[distance > 0.4]
    assert inside.min() > 5 and outside.max() < 0.5 * inside.min()
    other = TorchNGPField(encoder_cfg={'num_levels': 2, 'log2_hashmap_size': 8}, density_activation=activation)
    other.load_state_dict(field.state_dict())
    assert torch.equal(other.density(points), field.density(points))
    other.load_state_dict({**plain, 'first_distance': torch.zeros(5, 5, 5, 1)})
    assert other.first_distance.shape == (5, 5, 5, 1) and 'first_distance' not in plain


def test_a_lattice_is_exact_where_values_are_linear(points):
    lattice = lattice_points(5, 2.0).double().view(5, 5, 5, 3)
    torch.testing.assert_close(interpolate_lattice(lattice, points.double(), 2.0), points.double())
    outside = interpolate_lattice(lattice, 3 * points.double(), 2.0)
    torch.testing.assert_close(outside, (3 * points.double()).clamp(-2, 2))
    values = torch.randn(3, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    inputs = values, points[:4].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, p: interpolate_lattice(v, p, 1.0), inputs)
    assert torch.autograd.gradgradcheck(lambda v, p: interpolate_lattice(v, p, 1.0), inputs)


def test_no_vertex_moves_farther_than_its_reach():
    surface = MeshSurface(reach=0.2, cells=4)
    before = surface.vertices.clone()
    for scale in (0.1, 100.0):
        torch.nn.init.normal_(surface.shift, std=scale, generator=torch.Generator().manual_seed(0))
        moved = (surface().vertices - before).norm(dim=1)
        assert moved.max() <= 0.2 + 1e-6
    assert moved.max() > 0.15
    surface.keep_shape()
    assert torch.equal(surface().vertices, before) and not list(surface.parameters())


def test_the_ball_is_closed_and_round():
    vertices, faces = ball(0.5, 3)
    torch.testing.assert_close(vertices.norm(dim=1), torch.full((len(vertices),), 0.5))
    assert len(faces) == 8 * 4**3 and len(vertices) - len(faces) // 2 == 2  # Euler
    a, b, c = vertices[faces].unbind(1)
    assert ((torch.linalg.cross(b - a, c - a) * a).sum(1) > 0).all()
