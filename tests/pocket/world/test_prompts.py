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

"""Scenes of prompts, and captions of views."""

import math

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.pocket.world import prompts as world

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


@pytest.mark.parametrize('prompt', ['a dragon', 'a red duck', 'red cube', 'a mauve cube', ''])
def test_prompt_without_scene_is_refused(prompt):
    with refusal('scene', prompt, 'a hamburger', 'red', 'cube'):
        world.build_scene(prompt)


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
    assert world.write_caption('a duck', azimuth, elevation) == f'a duck, {view} view'


def test_words_of_all_prompts_are_known():
    known = set(world.KNOWN_WORDS)
    for prompt in (*ALL_PROMPTS, *world.SUITE):
        assert set(prompt.split()) <= known
    assert math.prod(len(word) for word in known) > 0
    assert set(world.PROMPTS_WITH_FRONT) <= set(ALL_PROMPTS)
