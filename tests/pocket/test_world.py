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

"""The world: distances, named objects, prompts and captions."""

import math

import pytest
import torch

from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import look_at_origin, render
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

pytestmark = pytest.mark.unit

ALL_PROMPTS = (
    *map(world.with_article, world.object_names()),
    *(f'a red {shape}' for shape in world.SHAPES),
    *(f'a red {upper} on top of a blue {lower}' for upper in world.SHAPES for lower in world.SHAPES),
)
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


def front_view(prompt: str, azimuth_deg: float = 0.0, elevation_deg: float = 0.0, size: int = 48):
    angles = (torch.tensor([float(value)]) for value in (azimuth_deg, elevation_deg, 3.2))
    return render(world.scene(prompt), look_at_origin(*angles), size=size)


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
    with pytest.raises(ValueError, match='sphere'):
        Primitive('sphere', (0, 0, 0), (1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match='at least one'):
        Scene([])


@pytest.mark.parametrize('prompt', ALL_PROMPTS)
def test_scene_lies_in_the_unit_ball_and_fills_it(prompt):
    points, scene = random_points(4000), world.scene(prompt)
    assert (scene.signed_distance(1.001 * torch.nn.functional.normalize(points, dim=-1)) > 0).all()
    reach = points[scene.signed_distance(points) < 0.05].norm(dim=-1)
    assert reach.max() > 0.5


def test_duck_looks_to_plus_z():
    """The orange beak: toward the camera from the front, on the left seen from +x, hidden from behind."""

    def orange(image):
        return (image[..., 0] > 0.9) & (image[..., 1] < 0.55) & (image[..., 2] < 0.2)

    upper = slice(0, 30)  # the feet are orange too
    side = orange(front_view('a duck', 90).image[0, upper])
    assert side[:, :24].sum() > 10 and side[:, 24:].sum() == 0
    assert orange(front_view('a duck', 0).image[0, upper]).sum() > 10
    assert orange(front_view('a duck', 180).image[0, upper]).sum() == 0


def test_hamburger_has_its_layers_in_order():
    column = front_view('a hamburger', 20, 0, 96).image[0, :, 48]
    bun, lettuce, cheese, patty = (0.86, 0.53, 0.2), (0.25, 0.66, 0.12), (1.0, 0.84, 0.1), (0.3, 0.13, 0.06)
    names = {'bun': bun, 'lettuce': lettuce, 'cheese': cheese, 'patty': patty}
    seen = []
    for pixel in column:
        name = next((n for n, c in names.items() if (pixel - torch.tensor(c)).abs().max() < 0.02), None)
        if name and (not seen or seen[-1] != name):
            seen.append(name)
    assert seen == ['bun', 'lettuce', 'cheese', 'patty', 'bun']


def test_pair_touches_in_a_plane():
    scene = world.scene('a red cube on top of a blue cylinder')
    blue = next(p for p in scene.primitives if p.kind == 'cylinder')
    red = next(p for p in scene.primitives if p.kind == 'box')
    assert red.center[1] - red.size[1] == pytest.approx(blue.center[1] + blue.size[1])
    assert red.center[1] > blue.center[1]
    assert red.color == world.COLORS['red'] and blue.color == world.COLORS['blue']


@pytest.mark.parametrize(
    ('prompt', 'same'),
    [
        ('A  Duck.', 'a duck'),
        ('a duck, side view', 'a duck'),
        ('duck', 'a duck'),
        ('an orange cube, overhead view', 'an orange cube'),
    ],
)
def test_equivalent_prompts_have_the_same_scene(prompt, same):
    assert world.scene(prompt).primitives == world.scene(same).primitives


@pytest.mark.parametrize('prompt', ['a dragon', 'a red duck', 'red cube', 'a mauve cube', ''])
def test_prompt_without_scene_is_refused(prompt):
    with pytest.raises(ValueError, match='a hamburger'):
        world.scene(prompt)


@pytest.mark.parametrize(
    ('azimuth', 'elevation', 'view'),
    [
        (0, 10, 'front'),
        (-59, 10, 'front'),
        (301, 10, 'front'),
        (60, 10, 'side'),
        (-90, 0, 'side'),
        (120, 0, 'side'),
        (121, 0, 'back'),
        (180, 60, 'back'),
        (-180, -15, 'back'),
        (0, 61, 'overhead'),
    ],
)
def test_caption(azimuth, elevation, view):
    assert world.caption('a duck', azimuth, elevation) == f'a duck, {view} view'


def test_words_of_all_prompts_are_known():
    known = set(world.known_words())
    for prompt in (*ALL_PROMPTS, *world.SUITE):
        assert set(prompt.split()) <= known
    assert math.prod(len(word) for word in known) > 0
    assert set(world.objects_with_front()) <= set(ALL_PROMPTS)
