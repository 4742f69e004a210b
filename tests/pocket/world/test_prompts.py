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

"""Prompts and their scenes."""

import math

import numpy as np
import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.bounds import FIT_RADIUS, measure_box, measure_radius
from nemo_dreamfusion.pocket.world.objects import MAIN, OBJECTS, PARTS
from nemo_dreamfusion.pocket.world.scenes import GAP
from nemo_dreamfusion.pocket.world.sdf import Scene

pytestmark = pytest.mark.unit

ALL_PROMPTS = (
    *map(world.add_article, world.OBJECT_NAMES),
    *(f'a red {shape}' for shape in world.SHAPES),
    *(f'a red {upper} on top of a blue {lower}' for upper in world.SHAPES for lower in world.SHAPES),
)


def random_points(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize('prompt', ALL_PROMPTS)
def test_scene_lies_in_the_unit_ball_and_fills_it(prompt):
    points, scene = random_points(4000), world.build_scene(prompt)
    assert (scene.signed_distance(1.001 * torch.nn.functional.normalize(points, dim=-1)) > 0).all()
    reach = points[scene.signed_distance(points) < 0.05].norm(dim=-1)
    assert reach.max() > 0.5


def test_pair_touches_in_a_plane():
    scene = world.build_scene('a red cube on top of a blue cylinder')
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
    assert world.build_scene(prompt).primitives == world.build_scene(same).primitives


@pytest.mark.parametrize(
    'prompt', ['a dragon', 'red duck', 'red cube', 'a cube', 'a mauve cube', 'a tall wide duck', '']
)
def test_prompt_without_scene_is_refused(prompt):
    with refusal('scene', prompt, 'a hamburger', 'red', 'cube'):
        world.build_scene(prompt)


def test_words_of_all_prompts_are_known():
    known = set(world.KNOWN_WORDS)
    for prompt in (*ALL_PROMPTS, *world.SUITE):
        assert set(prompt.split()) <= known
    assert math.prod(len(word) for word in known) > 0
    assert set(world.PROMPTS_WITH_FRONT) <= set(ALL_PROMPTS)


HALF_HEIGHTS = {  # of the shapes as the published weights know them
    'sphere': 0.8,
    'cube': 0.55,
    'cylinder': 0.68,
    'cone': 0.72,
    'torus': 0.26,
    'pyramid': 0.66,
    'capsule': 0.8,
}


@pytest.mark.parametrize('lower', world.SHAPES)
@pytest.mark.parametrize('upper', world.SHAPES)
def test_published_pair_stays(upper, lower):
    """Weights were trained on shapes at 0.6 of their size, stacked by their half heights about the middle."""
    up, low = 0.6 * HALF_HEIGHTS[upper], 0.6 * HALF_HEIGHTS[lower]
    solids = world.build_scene(f'a red {upper} on top of a blue {lower}').primitives
    red = next(p for p in solids if p.color == world.COLORS['red'])
    blue = next(p for p in solids if p.color == world.COLORS['blue'])
    assert len(solids) == 2 and red.stretching == blue.stretching == (1, 1, 1)
    for solid, shape, height in ((red, upper, low), (blue, lower, -up)):
        assert solid.kind == world.SHAPES[shape][0]
        assert solid.size == pytest.approx([0.6 * s for s in world.SHAPES[shape][1]], abs=1e-12)
        assert solid.center == pytest.approx((0, height, 0), abs=1e-12)


@pytest.mark.parametrize('name', OBJECTS)
def test_plain_object_stays(name):
    assert world.build_scene(world.add_article(name)).primitives == Scene(OBJECTS[name]()).primitives


@pytest.mark.parametrize('name', OBJECTS)
def test_colors_paint_the_parts_that_are_named(name):
    plain = Scene(OBJECTS[name]()).primitives
    words = PARTS.get(name)
    suffix = f' with {"" if words.endswith("s") else "a "}cyan {words}' if words else ''
    painted = world.build_scene(f'a pink {name}{suffix}').primitives
    colors = {MAIN: world.COLORS['pink'], words: world.COLORS['cyan']}
    assert [p.color for p in painted] == [colors.get(p.part, p.color) for p in plain]
    assert [(p.center, p.size) for p in painted] == [(p.center, p.size) for p in plain]


def extent(prompt, color=None):
    """Return the bounding box of the solids of a colour: lowest and highest corner."""
    solids = world.build_scene(prompt).primitives
    return measure_box([p for p in solids if color is None or p.color == world.COLORS[color]])


@pytest.mark.parametrize('thing', ['red cube', 'car', 'green ice cream cone'])
def test_sizes(thing):
    normal, small, tall, wide = (
        np.subtract(*extent(f'a {size}{thing}')[::-1]) for size in ('', 'small ', 'tall ', 'wide ')
    )
    assert small == pytest.approx(0.62 * normal)
    assert tall[1] / tall[0] == pytest.approx(1.35 * normal[1] / normal[0])
    assert wide[0] / wide[1] == pytest.approx(1.35 * normal[0] / normal[1])
    assert wide[2] / wide[0] == pytest.approx(normal[2] / normal[0])


PAIRS = (
    'a duck on top of a table',
    'a tall robot on top of a wide car',
    'a red cube on top of a house',
    'a small red cube on top of a blue cylinder',
    'a car next to a tall tree',
    'a red cube next to a small blue torus',
)


@pytest.mark.parametrize('prompt', (*PAIRS, 'a tall red cone', 'a wide castle', 'a tall chair', 'a small green key'))
def test_new_scene_lies_in_the_ball(prompt):
    solids = world.build_scene(prompt).primitives
    assert measure_radius(solids) <= FIT_RADIUS + 1e-9
    normals = torch.nn.functional.normalize(random_points(4000), dim=-1)
    assert world.build_scene(prompt).distances(normals).min() > 0


def test_thing_stands_on_top():
    (low1, high1), (low2, high2) = (
        extent('a red cube on top of a green car', 'red'),
        extent('a red cube on top of a car'),
    )
    lower = extent('a red cube on top of a green car', 'green')
    assert low1[1] == pytest.approx(lower[1][1], abs=1e-6)  # the car's roof is of its main colour
    assert high1[1] == pytest.approx(high2[1]) and low2[1] == pytest.approx(-high2[1])


def test_things_stand_side_by_side():
    prompt = 'a red cube next to a small blue sphere'
    (low1, high1), (low2, high2) = extent(prompt, 'red'), extent(prompt, 'blue')
    assert low2[0] - high1[0] == pytest.approx(GAP)  # nothing had to shrink
    assert low1[1] == pytest.approx(low2[1]) and low1[0] == pytest.approx(-high2[0])
    assert (high2 - low2)[1] / (high1 - low1)[1] == pytest.approx(0.62 * 0.8 / 0.55)
    assert (low1 + high1)[2] == pytest.approx((low2 + high2)[2])


@pytest.mark.parametrize('name', world.SUPPORTS)
def test_what_carries_has_its_highest_point_over_its_middle(name):
    low, high = measure_box(OBJECTS[name]())
    top = torch.tensor([(low[0] + high[0]) / 2, high[1] - 0.06, (low[2] + high[2]) / 2], dtype=torch.float32)
    assert Scene(OBJECTS[name]()).distances(top[None]).min() < 0


def test_what_does_not_carry_is_refused():
    with refusal('scene', 'a duck on top of a tree', 'a table', 'next to'):
        world.build_scene('a duck on top of a tree')
    world.build_scene('a duck next to a tree')


@pytest.mark.parametrize(
    ('prompt', 'words'),
    [
        ('a house with a red sail', ['roof']),
        ('a key with a red roof', ['key']),
        ('a red cube with a red roof', ['cube']),
        ('a house with a red roof next to a duck', ['next to']),
        ('a duck on top of red cube', ['on top of']),
        ('duck next to a cat', ['next to']),
    ],
)
def test_phrase_without_scene_is_refused(prompt, words):
    with refusal('scene', prompt, *words):
        world.build_scene(prompt)


@pytest.mark.parametrize('kind', dict.fromkeys(p.kind for build in OBJECTS.values() for p in build()))
def test_reach_is_that_of_the_distances(kind):
    """Points inside the solid: none beyond its box, and some near each side."""
    solids = [p for build in OBJECTS.values() for p in build() if p.kind == kind]
    solid = max(solids, key=lambda p: math.prod(s or 1 for s in p.size)).stretch((1.0, 1.3, 0.9))
    low, high = measure_box([solid])
    points = torch.rand(60000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        (high - low) * 1.2, dtype=torch.float32
    ) + torch.tensor(low - 0.1 * (high - low), dtype=torch.float32)
    inside = points[Scene([solid]).distances(points)[0] < 0].numpy()
    slack = 0.06 if kind in ('cone', 'pyramid') else 0.04
    assert (inside.min(0) >= low - 1e-3).all() and (inside.max(0) <= high + 1e-3).all()
    assert (inside.min(0) < low + slack).all() and (inside.max(0) > high - slack).all()
