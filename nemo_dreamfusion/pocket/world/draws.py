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

"""Draw prompts of the world, and hold a fifth of them back from the training for the benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from nemo_dreamfusion.parts.checks import check_choice, check_range, refuse
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.prompts import Phrase, Thing

PLAIN, ATTRIBUTES, SINGLE, PAIR = 'named', 'named-with-attributes', 'single', 'pair'
MIXED = 'mixed-pair'  # a pair of any two things in any relation; half of PAIR are plain stacks of two shapes
SHARES = {PLAIN: 0.30, ATTRIBUTES: 0.22, SINGLE: 0.20, PAIR: 0.28, MIXED: 0.0}
HELD_OUT_SHARE = 0.2
_MODULUS = 1 << 32


def is_held_out(prompt: str) -> bool:
    """Say whether a prompt is held back from the training: a fifth of all, by their digest.

    A named object as it is, and the prompts of the suite, never are.

    Raises:
        ValueError: for a prompt without a scene.
    """
    phrase = world.read_phrase(world.normalize(prompt))
    text = str(phrase)  # however its articles were written
    if text in world.SUITE or (not phrase.relation and phrase.things[0].is_plain):
        return False
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], 'big') < HELD_OUT_SHARE * _MODULUS


def check_shares(shares: Mapping[str, float]) -> None:
    """Check the share of each kind of prompt.

    Raises:
        ValueError: for a kind that is none of `SHARES`, a share out of [0, 1], or shares whose sum is not 1.
    """
    for kind, share in shares.items():
        check_choice('shares', kind, tuple(SHARES))
        check_range(f'shares.{kind}', share, 0, 1)
    if abs(sum(shares.values()) - 1) > 1e-6:
        given = ', '.join(f'{kind}={share:g}' for kind, share in shares.items())
        refuse('shares', given, 'numbers that add up to 1')


def draw_prompt(rng: np.random.Generator, shares: Mapping[str, float] = SHARES) -> str:
    """Draw a prompt of the training, none that is held out; plain objects of the suite are twice as frequent as others.

    Args:
        rng: where it is drawn from.
        shares: how often each kind of prompt is drawn; they add up to 1.
    """
    chances = np.array(list(shares.values()))
    kind = str(rng.choice(list(shares), p=chances / chances.sum()))
    while is_held_out(prompt := _draw(kind, rng)):
        pass
    return prompt


def draw_held_out(kind: str, count: int, seed: int) -> list[str]:
    """Draw distinct held-out prompts, always the same for a seed.

    Args:
        kind: `named-with-attributes`, `single` (a shape alone) or `pair`.
        count: how many.
        seed: of the draw.

    Raises:
        ValueError: for another kind, or where the world has hardly as many.
    """
    check_choice('kind', kind, (ATTRIBUTES, SINGLE, PAIR))
    rng, found = np.random.default_rng(seed), dict[str, None]()
    for _ in range(1000 + 100 * count):
        if len(found) == count:
            return list(found)
        if is_held_out(prompt := _draw(kind, rng)):
            found[prompt] = None
    raise ValueError(f'count = {count}: found only {len(found)} held-out prompts of kind {kind!r}. Ask for fewer.')


def _draw(kind: str, rng: np.random.Generator) -> str:
    if kind == PLAIN:
        names = [world.add_article(name) for name in world.OBJECT_NAMES]
        weights = np.array([2.0 if name in world.SUITE else 1.0 for name in names])
        return str(rng.choice(names, p=weights / weights.sum()))
    if kind == ATTRIBUTES:
        return str(_draw_object(rng, alone=True))
    if kind == SINGLE:
        return str(_draw_shape(rng, 1 / 3))
    return str(_draw_pair(rng, 0.5 if kind == PAIR else 0))


def _choose(rng: np.random.Generator, words: Iterable[str], share: float = 1.0) -> str:
    """Draw one of some words, or '' in the rest of the cases."""
    word = str(rng.choice(list(words)))
    return word if rng.random() < share else ''


def _draw_object(rng: np.random.Generator, *, alone: bool) -> Thing:
    """Draw an object with at least one attribute where it is alone; in a pair, it often has none, and no coloured part."""
    noun = _choose(rng, world.OBJECT_NAMES)
    while True:
        color, size = _choose(rng, world.COLORS, 0.6), _choose(rng, world.SIZES, 0.35)
        part_color = _choose(rng, world.COLORS, 0.4) if alone and noun in world.PARTS else ''
        thing = Thing(noun, color, size, part_color)
        if not (alone and thing.is_plain):
            return thing


def _draw_shape(rng: np.random.Generator, sized: float) -> Thing:
    return Thing(_choose(rng, world.SHAPES), _choose(rng, world.COLORS), _choose(rng, world.SIZES, sized))


def _draw_pair(rng: np.random.Generator, stacks: float) -> Phrase:
    """Draw two things; a share ``stacks`` of the pairs are shapes without sizes on top of each other."""
    if rng.random() < stacks:
        return Phrase((_draw_shape(rng, 0), _draw_shape(rng, 0)), 'on top of')
    relation = _choose(rng, world.RELATIONS)
    first = second = _draw_thing(rng)
    while second == first or (relation == 'on top of' and not second.carries):
        second = _draw_thing(rng)
    return Phrase((first, second), relation)


def _draw_thing(rng: np.random.Generator) -> Thing:
    return _draw_object(rng, alone=False) if rng.random() < 2 / 3 else _draw_shape(rng, 0.25)
