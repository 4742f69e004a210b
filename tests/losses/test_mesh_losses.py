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

"""The losses of the mesh stage against closed forms, and that each of them moves what it should."""

import math

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.modules.losses.dmtet import MeshLosses
from nemo_dreamfusion.modules.losses.dreamfusion import DreamFusionLosses
from nemo_dreamfusion.modules.losses.laplacian import laplacian_loss
from nemo_dreamfusion.modules.losses.normal_consistency import face_pairs, normal_consistency
from nemo_dreamfusion.modules.losses.normal_variation import EPSILON, normal_variation
from nemo_dreamfusion.modules.losses.sign_change import sign_change_loss
from nemo_dreamfusion.modules.nerf.dmtet import TetrahedralSurface
from nemo_dreamfusion.modules.nerf.mesh_surface import ball
from nemo_dreamfusion.parts.types import RenderOutput, TriangleMesh

pytestmark = pytest.mark.unit

NO_FACES = torch.zeros(0, 3, dtype=torch.int64)


def render(mesh):
    image = torch.rand(1, 2, 2, 3)
    return RenderOutput(image=image, opacity=image[..., :1], depth=image[..., :1], normals=image, mesh=mesh)


def test_faces_are_paired_at_each_edge():
    """A closed mesh has 3 F / 2 edges, each with two faces; of three faces at one edge two pairs are made."""
    vertices, faces = ball(1.0, 2)
    first, second, edge = face_pairs(faces, len(vertices))
    assert len(first) == 3 * len(faces) // 2 and (first != second).all()
    shared = [len(set(faces[a].tolist()) & set(faces[b].tolist())) for a, b in zip(first, second)]
    assert set(shared) == {2}
    assert all(set(pair.tolist()) <= set(faces[a].tolist()) for a, pair in zip(first, edge))
    fan = torch.tensor([[0, 1, 2], [0, 1, 3], [1, 0, 4]])
    assert len(face_pairs(fan, 5)[0]) == 2


def test_normal_consistency_of_an_icosahedron_and_a_finer_ball():
    """An octahedron's faces meet at an angle whose cosine is -1/3 (of the normals 1/3); finer balls are smoother."""
    assert normal_consistency(*ball(1.0, 0)).item() == pytest.approx(1 - 1 / 3)
    values = [normal_consistency(*ball(1.0, n)).item() for n in range(4)]
    assert values == sorted(values, reverse=True) and values[3] < 0.05


def test_normal_variation_asks_for_no_round_edges():
    """A right angle in one fold, or in three of 30 degrees: the same, where the squares differ by a factor of two."""
    costs, squares = [], []
    for folds in (1, 3):
        angle = math.pi / 2 * torch.arange(folds + 1) / folds
        profile = torch.cat([torch.zeros(1, 2), torch.stack([angle.cos(), angle.sin()], 1).cumsum(0)])
        across = torch.cat([torch.cat([profile, torch.full((len(profile), 1), float(z))], 1) for z in (0, 1)])
        n = len(profile)
        faces = torch.tensor(
            [[k, k + 1, n + k] for k in range(n - 1)] + [[k + 1, n + k + 1, n + k] for k in range(n - 1)]
        )
        length = folds + math.sqrt(2) * (n - 1)  # of the folds, and of the squares' diagonals
        costs.append((normal_variation(across, faces) * length).item())
        squares.append(normal_consistency(across, faces).item() * (2 * n - 3))
        each = 2 * math.sin(math.pi / 4 / folds)
        assert costs[-1] == pytest.approx(folds * (math.hypot(each, EPSILON) - EPSILON), rel=1e-4)
    assert costs[1] == pytest.approx(costs[0], rel=0.05) and squares[0] > 2 * squares[1]


def test_laplacian_of_an_octahedron_does_not_depend_on_its_size():
    """The neighbours' middle is the centre, 1 away; an edge has sqrt 2."""
    for radius in (1.0, 0.1):
        assert laplacian_loss(*ball(radius, 0)).item() == pytest.approx(1 / math.sqrt(2), rel=1e-4)


def test_sign_change_is_least_where_both_ends_are_near():
    near, far = torch.tensor([[-0.01, 0.01]]), torch.tensor([[-1.0, 1.0]])
    assert sign_change_loss(near).item() == pytest.approx(2 * math.log(1 + math.exp(0.01)))
    assert sign_change_loss(far) > sign_change_loss(near)


def test_nothing_to_compare_costs_nothing():
    for value in (
        normal_consistency(torch.eye(3), torch.tensor([[0, 1, 2]])),
        normal_consistency(torch.zeros(0, 3), NO_FACES),
        normal_variation(torch.eye(3), torch.tensor([[0, 1, 2]])),
        normal_variation(torch.zeros(0, 3), NO_FACES),
        laplacian_loss(torch.zeros(0, 3), NO_FACES),
        sign_change_loss(torch.zeros(0, 2)),
    ):
        assert value == 0


@pytest.mark.parametrize('loss', [normal_consistency, normal_variation, laplacian_loss])
def test_gradients_are_those_of_differences_but_for_the_unit_of_length(loss):
    torch.manual_seed(0)
    vertices, faces = ball(1.0, 0)
    rough = (vertices + 0.2 * torch.randn_like(vertices)).double().requires_grad_()
    if loss is normal_consistency:
        assert torch.autograd.gradcheck(lambda v: loss(v, faces), rough)
    (slope,) = torch.autograd.grad(loss(rough, faces), rough)
    assert loss(rough - 0.01 * slope, faces) < loss(rough, faces)


@pytest.mark.parametrize('name', MeshLosses.OF_A_MESH)
def test_d21_each_loss_of_a_mesh_is_applied(name):
    """Its gradient reaches the surface, and steps along it make the surface better; weight 0 computes nothing."""
    torch.manual_seed(0)
    surface = TetrahedralSurface(cells=10)
    with torch.no_grad():
        surface.distance.add_(0.5 * surface.spacing * torch.randn_like(surface.distance))
    none = dict.fromkeys((f'lambda_{n}' for n in MeshLosses(lambda_entropy=0.0).schedules), 0.0)
    losses = MeshLosses(**{**none, f'lambda_{name}': 2.0})
    optimizer = torch.optim.Adam(surface.parameters(), lr=2e-3)
    values = []
    for _ in range(15):
        terms = losses(render(surface()), 0)
        assert list(terms) == [name]
        optimizer.zero_grad()
        terms[name].backward()
        assert surface.distance.grad.abs().sum() > 0
        optimizer.step()
        values.append(terms[name].item())
    assert values[-1] < 0.95 * values[0]


def test_d22_a_weight_that_cannot_act_is_refused_before_a_step():
    with refusal('model.loss.lambda_mesh_normal', 0.5, 'model/renderer=mesh'):
        MeshLosses().check_renderer(draws_mesh=False)
    with refusal('model.loss.lambda_sign_change', [10, 0.0, 1.0, 20], 'model/loss=dreamfusion'):
        losses = MeshLosses(lambda_mesh_normal=0.0, lambda_mesh_laplacian=0.0, lambda_sign_change=[10, 0.0, 1.0, 20])
        losses.check_renderer(draws_mesh=False)
    with refusal('model.loss.lambda_normal_smoothness_3d', 0.1, 'model.loss.lambda_mesh_normal'):
        DreamFusionLosses(lambda_normal_smoothness_3d=0.1).check_renderer(draws_mesh=True)
    MeshLosses().check_renderer(draws_mesh=True)
    DreamFusionLosses().check_renderer(draws_mesh=False)


def test_a_render_without_a_grid_is_refused_by_the_loss_that_reads_it():
    losses = MeshLosses(lambda_sign_change=1.0, lambda_orientation=0.0)
    with refusal('model.loss.lambda_sign_change', NO_VALUE, 'mesh.crossings', 'model.loss.lambda_sign_change=0'):
        losses(render(TriangleMesh(*ball(1.0, 1))), 0)
