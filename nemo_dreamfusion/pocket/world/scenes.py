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

"""Build the one true scene of a prompt."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from nemo_dreamfusion.pocket.world.bounds import fit, measure_box, translate
from nemo_dreamfusion.pocket.world.captions import normalize
from nemo_dreamfusion.pocket.world.grammar import COLORS, SHAPES, Phrase, Thing, read_phrase
from nemo_dreamfusion.pocket.world.objects import MAIN, OBJECTS, WITH_FRONT
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene, Vector

PAIR_SCALE = 0.6  # of the things of a pair
SMALL = 0.62
STRETCHES: dict[str, Vector] = {'tall': (1.0, 1.35, 1.0), 'wide': (1.35, 1.0, 1.35)}
GAP = 0.04  # between two things side by side


def build_scene(prompt: str) -> Scene:
    """Build the true scene of a prompt; a view suffix is ignored.

    Raises:
        ValueError: when the world has no such scene, naming those it has.
    """
    return _build_scene(read_phrase(normalize(prompt)))


@lru_cache(maxsize=256)
def _build_scene(phrase: Phrase) -> Scene:
    if phrase.relation:
        return Scene(_join(phrase))
    solids = _build_thing(phrase.things[0])
    return Scene(fit(solids) if phrase.things[0].size in STRETCHES else solids)


def _build_thing(thing: Thing) -> list[Primitive]:
    """Build a thing in its own size and colours, at the origin; a stretched one may reach out of the unit ball."""
    if thing.noun in SHAPES:
        kind, size = SHAPES[thing.noun]
        solids = [Primitive(kind, (0.0, 0.0, 0.0), size, COLORS[thing.color], part=MAIN)]
    else:
        solids = [_recolor(solid, thing) for solid in OBJECTS[thing.noun]()]
    if thing.size == 'small':
        return [solid.scale(SMALL) for solid in solids]
    if thing.size:
        return [solid.stretch(STRETCHES[thing.size]) for solid in solids]
    return solids


def _recolor(solid: Primitive, thing: Thing) -> Primitive:
    color = thing.color if solid.part == MAIN else thing.part_color if solid.part else ''
    return replace(solid, color=COLORS[color]) if color else solid


def _join(phrase: Phrase) -> list[Primitive]:
    """Put two things on top of each other or side by side, centred as a whole and fitted into the unit ball.

    The first stands on the second, touching in a horizontal plane, or left of it as seen from the front, on one ground.
    Two shapes without sizes are stacked without fitting, as the first published weights know them.
    """
    first, second = ([solid.scale(PAIR_SCALE) for solid in _build_thing(thing)] for thing in phrase.things)
    (low1, high1), (low2, high2) = measure_box(first), measure_box(second)
    offset = (low2 + high2 - low1 - high1) / 2  # middle on middle
    if phrase.relation == 'on top of':
        offset[1] = high2[1] - low1[1]
    else:
        offset[:2] = low2[0] - GAP - high1[0], low2[1] - low1[1]
    joined = [*translate(first, offset), *second]
    if phrase.relation == 'on top of' and all(t.noun in SHAPES and not t.size for t in phrase.things):
        low, high = measure_box(joined)
        return translate(joined, -(low + high) / 2)
    return fit(joined)


def has_front(prompt: str) -> bool:
    """Say whether a thing of the prompt has a front, so that its front, side and back views differ."""
    return any(thing.noun in WITH_FRONT for thing in read_phrase(normalize(prompt)).things)
