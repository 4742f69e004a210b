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

"""Signed distances of the primitives and of scenes."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

pytestmark = pytest.mark.unit

ONE_OF_EACH = (
    Primitive('ellipsoid', (0.1, 0.2, -0.3), (0.5, 0.5, 0.5), (1, 0, 0)),
    Primitive('ellipsoid', (0.1, 0.0, 0.0), (0.6, 0.3, 0.4), (1, 0, 0)),
    Primitive('dome', (0.0, -0.2, 0.0), (0.6, 0.5, 0.6), (1, 0, 0)),
    Primitive('box', (0.0, 0.1, 0.0), (0.5, 0.3, 0.4), (1, 0, 0), rounding=0.1),
    Primitive('cylinder', (0.0, 0.1, 0.0), (0.5, 0.3, 0), (1, 0, 0), axis='x', rounding=0.05),
    Primitive('ruffle', (0.0, 0.1, 0.0), (0.7, 0.1, 0.04), (1, 0, 0)),
    Primitive('cone', (0.0, 0.0, 0.2), (0.5, 0.4, 0.1), (1, 0, 0), axis='-z'),
    Primitive('torus', (0.0, 0.0, 0.0), (0.5, 0.2, 0), (1, 0, 0), axis='z'),
    Primitive('capsule', (0.0, 0.1, 0.0), (0.3, 0.4, 0), (1, 0, 0), axis='-x'),
    Primitive('pyramid', (0.0, 0.0, 0.0), (0.5, 0.4, 0), (1, 0, 0), axis='-y'),
)


def random_points(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_sphere_distance_is_exact():
    points = random_points(100)
    distance = Scene(ONE_OF_EACH[:1]).signed_distance(points)
    expected = (points - torch.tensor([0.1, 0.2, -0.3])).norm(dim=-1) - 0.5
    torch.testing.assert_close(distance, expected, atol=1e-5, rtol=0)


def test_box_distance_outside_a_face_an_edge_and_a_corner():
    box = Scene([Primitive('box', (0, 0, 0), (0.5, 0.4, 0.3), (1, 1, 1))])
    points = torch.tensor([[0.7, 0, 0], [0.8, 0.8, 0], [0.6, 0.6, 0.5], [0, 0, 0]])
    expected = torch.tensor([0.2, 0.5, 0.3, -0.3])
    torch.testing.assert_close(box.signed_distance(points), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize('primitive', ONE_OF_EACH, ids=lambda p: p.kind)
def test_no_distance_jumps_through_the_surface(primitive):
    """Within a ball of |distance| (less the estimate's slack for ellipsoids) around a point the sign never changes."""
    scene = Scene([primitive])
    points, directions = random_points(2000), torch.nn.functional.normalize(random_points(2000, 1) - 1e-3, dim=-1)
    distance = scene.signed_distance(points)
    reached = scene.signed_distance(points + 0.95 * distance.abs()[:, None] * directions)
    outside = distance > 0
    assert (reached[outside] > -0.02).all()


@pytest.mark.parametrize('axis', ['y', '-y', 'x', '-x', 'z', '-z'])
def test_axis_of_a_cone_points_where_it_says(axis):
    cone = Scene([Primitive('cone', (0, 0, 0), (0.5, 0.5, 0.0), (1, 1, 1), axis=axis)])
    direction = torch.zeros(3)
    direction['xyz'.index(axis[-1])] = -1.0 if axis[0] == '-' else 1.0
    tip, base = cone.signed_distance(torch.stack([0.45 * direction, -0.45 * direction]))
    assert tip > base
    assert cone.signed_distance(0.55 * direction[None]).item() == pytest.approx(0.05, abs=1e-4)


def test_unknown_primitive_and_empty_scene_are_refused():
    with refusal('primitive', 'sphere', 'ellipsoid', 'box'):
        Primitive('sphere', (0, 0, 0), (1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match='at least one'):
        Scene([])
