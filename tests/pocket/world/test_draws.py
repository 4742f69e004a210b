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

"""Prompts that are drawn, and those that are held out."""

import numpy as np
import pytest
from refusals import refusal

from nemo_dreamfusion.pocket.world import draws
from nemo_dreamfusion.pocket.world import prompts as world

pytestmark = pytest.mark.unit


@pytest.fixture(scope='module')
def drawn():
    rng = np.random.default_rng(0)
    return [draws.draw_prompt(rng) for _ in range(4000)]


def test_drawn_prompts_are_canonical_and_not_held_out(drawn):
    for prompt in drawn:
        assert str(world.read_phrase(prompt)) == prompt
        assert not draws.is_held_out(prompt)
    for prompt in drawn[:150]:
        world.build_scene(prompt)


def test_shares_of_the_kinds(drawn):
    phrases = [world.read_phrase(prompt) for prompt in drawn]
    pairs = [p for p in phrases if p.relation]
    plain = [p.things[0].noun for p in phrases if not p.relation and p.things[0].is_plain]
    singles = [p.things[0] for p in phrases if not p.relation and p.things[0].noun in world.SHAPES]
    assert len(pairs) / len(drawn) == pytest.approx(0.28, abs=0.03)
    assert len(plain) / len(drawn) == pytest.approx(0.30, abs=0.03)
    assert len(singles) / len(drawn) == pytest.approx(0.20, abs=0.03)
    assert sum(bool(thing.size) for thing in singles) / len(singles) == pytest.approx(1 / 3, abs=0.07)
    assert {p.relation for p in pairs} == set(world.RELATIONS)
    assert set(plain) == set(world.OBJECT_NAMES)


def test_shares_may_be_others():
    rng = np.random.default_rng(0)
    some = {'single': 0.25, 'mixed-pair': 0.75}
    phrases = [world.read_phrase(draws.draw_prompt(rng, some)) for _ in range(1000)]
    pairs = [p.things for p in phrases if p.relation]
    assert len(pairs) / len(phrases) == pytest.approx(0.75, abs=0.05)
    named = [any(thing.noun in world.OBJECT_NAMES for thing in things) for things in pairs]
    assert np.mean(named) > 0.8  # a third are shapes, each: 1/9 of pairs have no named object
    assert {p.things[0].noun for p in phrases if not p.relation} <= set(world.SHAPES)


def test_wrong_shares_are_refused():
    thirds = {'single': 0.3333333, 'pair': 0.3333333, 'named': 0.3333333}
    draws.check_shares(thirds)
    assert draws.draw_prompt(np.random.default_rng(0), thirds)
    with refusal('shares', 'pairs', 'mixed-pair'):
        draws.check_shares({'pairs': 1.0})
    with refusal('shares.pair', 2, 'at most 1'):
        draws.check_shares({'pair': 2})
    with refusal('shares', 'pair=0.5, single=0.4', 'add up to 1'):
        draws.check_shares({'pair': 0.5, 'single': 0.4})


def test_a_fifth_is_held_out_but_no_plain_object():
    singles = [
        f'a {size}{color} {shape}'
        for size in ('', 'small ', 'tall ', 'wide ')
        for color in world.COLORS
        if color != 'orange'
        for shape in world.SHAPES
    ]
    pairs = [f'{one} next to {other}' for one in singles[::9] for other in singles[::9]]
    assert np.mean([draws.is_held_out(prompt) for prompt in pairs]) == pytest.approx(0.2, abs=0.04)
    assert 0.1 < np.mean([draws.is_held_out(prompt) for prompt in singles]) < 0.3
    for prompt in (*map(world.add_article, world.OBJECT_NAMES), *world.SUITE):
        assert not draws.is_held_out(prompt)


@pytest.mark.parametrize('kind', ['named-with-attributes', 'single', 'pair'])
def test_held_out_prompts_are_fixed_and_of_their_kind(kind):
    found = draws.draw_held_out(kind, 20, seed=0)
    assert found == draws.draw_held_out(kind, 20, seed=0) != draws.draw_held_out(kind, 20, seed=1)
    assert len(set(found)) == 20
    for prompt in found:
        assert draws.is_held_out(prompt) and draws.is_held_out(f'{prompt}, front right high view')
        phrase = world.read_phrase(prompt)
        is_shape = phrase.things[0].noun in world.SHAPES
        assert kind == ('pair' if phrase.relation else 'single' if is_shape else 'named-with-attributes')


def test_kind_without_held_out_prompts_is_refused():
    with refusal('kind', 'named', 'single'):
        draws.draw_held_out('named', 1, 0)
    with pytest.raises(ValueError, match='100'):
        draws.draw_held_out('single', 100, 0)
