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

"""Which parts of a surface new words change: from pictures whose parts, and their changes, are known."""

from __future__ import annotations

import pytest
import torch

from nemo_dreamfusion.models.edit_region import PARTS, Looks, SurfaceParts, divide, find_parts, measure_relevance

RED, GREEN, DARK = (0.8, 0.05, 0.05), (0.1, 0.6, 0.1), (0.05, 0.05, 0.05)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def look_at(columns, changes, *, views=24, noise=1.0):
    """A wall of columns 4 pixels wide, of these colours, before an empty ground; latents of 3 pixels that cut across them.

    Where a column changes, the predicted noise differs by (1, -1); all latents have noise of their own.
    """
    draw = generator(1)
    side = 12 * (len(columns) // 3)
    colors = torch.tensor(columns).repeat_interleave(4, 0).expand(side, -1, 3)
    height, width = torch.meshgrid(torch.linspace(1, -1, side), torch.linspace(-1, 1, side), indexing='ij')
    positions = torch.stack([width, height, 0 * width], -1)
    opacity = torch.ones(side, side)
    opacity[: side // 4] = 0
    moved = torch.tensor(changes).float().repeat_interleave(4).expand(side, -1) * opacity
    coarse = torch.nn.functional.avg_pool2d(moved[None, None], 3)
    differences = coarse * torch.tensor([1.0, -1.0])[:, None, None]
    differences = differences + noise * torch.randn(views, *differences.shape[1:], generator=draw)
    images = colors.expand(views, -1, -1, -1) + 0.02 * torch.randn(views, side, side, 3, generator=draw)
    return Looks(images.clamp(0, 1), positions.expand_as(images), opacity.expand(views, -1, -1), differences)


def found(looks, columns):
    """Whether the middle of each column may change."""
    places = looks.positions[0, -1, 2::4]
    return find_parts(looks, 1.0, generator()).may_change(places, torch.tensor(columns)).tolist()


def test_what_the_words_change_is_found_below_noise_as_large_and_a_pixel_of_two_colours():
    columns = [RED, RED, GREEN, GREEN, RED, RED]
    changes = [color == RED for color in columns]
    assert found(look_at(columns, changes), columns) == changes
    changes = [color == GREEN for color in columns]
    assert found(look_at(columns, changes), columns) == changes


def test_of_two_things_of_one_colour_one_may_change():
    columns, changes = [RED, RED, RED, DARK, DARK, DARK, RED, RED, RED], [True] * 3 + [False] * 6
    assert found(look_at(columns, changes), columns) == changes


def test_an_object_that_changes_all_over_may():
    columns = [RED, RED, RED]
    assert found(look_at(columns, [True] * 3), columns) == [True] * 3


def test_one_small_part_that_changes_most_does_not_keep_all_others():
    columns = [RED, GREEN] + 13 * [GREEN]
    looks = look_at(columns, [True] + 14 * [False], noise=0.1)
    rest = look_at(columns, [False] + 14 * [True], noise=0.1).differences
    both = Looks(looks.colors, looks.positions, looks.opacity, 4 * looks.differences + rest)
    assert found(both, columns) == [True] * 15


def test_where_nothing_is_seen_no_part_is_found():
    looks = look_at([RED, RED, GREEN], [True, True, False], views=2)
    assert (
        find_parts(Looks(looks.colors, looks.positions, 0 * looks.opacity, looks.differences), 1.0, generator())
        is None
    )


def test_the_division_takes_the_memory_of_one_look_at_a_time():
    columns = 30 * [RED, GREEN]
    looks = look_at(columns, 30 * [True, False], views=6)  # of 240 x 240 pixels
    with torch.profiler.profile(profile_memory=True) as profile:
        find_parts(looks, 1.0, generator())
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    one_look = 240 * 240 * PARTS * 8  # bytes of whole numbers, one for each pixel and part
    assert one_look <= largest < 2 * one_look


def test_relevance_is_that_of_least_squares_whatever_the_ground_does():
    draw = generator(2)
    areas = torch.rand(8, 3, 5, 5, generator=draw) / 3
    ground = 1 - areas.sum(1, keepdim=True)
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]])
    differences = torch.einsum('vkhw,kc->vchw', areas, vectors) + ground * torch.tensor([7.0, 0.0])[:, None, None]
    assert measure_relevance(areas, differences).tolist() == pytest.approx([5, 0, 1], abs=0.02)


def test_a_surface_of_few_colours_has_few_parts_and_is_divided_the_same_way_again():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).repeat(50, 1)
    centers = divide(points, PARTS, generator())
    assert sorted(centers.tolist()) == sorted(points[:3].tolist())
    many = torch.rand(500, 2, generator=generator())
    assert len(divide(many, 5, generator())) == 5
    assert torch.equal(divide(many, 5, generator()), divide(many, 5, generator()))


def test_a_point_belongs_to_the_part_nearest_in_colour_and_place():
    parts = find_parts(look_at([RED, RED, GREEN], [True, True, False], views=2, noise=0.0), 1.0, generator())
    assert isinstance(parts, SurfaceParts)
    places = torch.tensor([[-0.9, 0.0, 0.0], [0.9, 0.0, 0.0]])
    assert parts.may_change(places, torch.tensor([RED, GREEN])).tolist() == [True, False]
    assert parts.may_change(places.flip(0), torch.tensor([RED, GREEN])).tolist() == [True, False]  # colours say more
