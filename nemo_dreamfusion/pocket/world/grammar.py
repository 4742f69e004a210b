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

"""Read prompts: the words of the world, and the things that a prompt names.

A prompt is one thing (`a duck`, `a small red cube`, `a wide blue house with a red roof`) or two of them without `with`
(`a duck on top of a table`, `a red cube next to a tall lamp`). A shape always has a colour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.pocket.world.objects import OBJECTS, PARTS, WITH_FRONT
from nemo_dreamfusion.pocket.world.sdf import Vector

COLORS: dict[str, Vector] = {  # linear RGB
    'red': (0.85, 0.08, 0.07),
    'green': (0.1, 0.6, 0.14),
    'blue': (0.08, 0.2, 0.85),
    'yellow': (0.98, 0.85, 0.1),
    'orange': (1.0, 0.48, 0.05),
    'purple': (0.5, 0.12, 0.68),
    'white': (0.93, 0.93, 0.93),
    'black': (0.05, 0.05, 0.05),
    'brown': (0.42, 0.22, 0.09),
    'pink': (0.98, 0.55, 0.7),
    'gray': (0.5, 0.5, 0.5),
    'cyan': (0.1, 0.8, 0.85),
}

# kind and size (see Primitive) of a shape alone in the scene
SHAPES: dict[str, tuple[str, Vector]] = {
    'sphere': ('ellipsoid', (0.8, 0.8, 0.8)),
    'cube': ('box', (0.55, 0.55, 0.55)),
    'cylinder': ('cylinder', (0.55, 0.68, 0.0)),
    'cone': ('cone', (0.68, 0.72, 0.0)),
    'torus': ('torus', (0.58, 0.26, 0.0)),
    'pyramid': ('pyramid', (0.64, 0.66, 0.0)),
    'capsule': ('capsule', (0.42, 0.38, 0.0)),
}

SIZES = ('small', 'tall', 'wide')
RELATIONS = ('on top of', 'next to')
# Objects that carry another thing: their highest point lies over their middle. So do all shapes.
SUPPORTS = ('hamburger', 'mushroom', 'table', 'house', 'car', 'cup', 'bus')

SUITE = (
    'a hamburger',
    'a snowman',
    'a mushroom',
    'a tree',
    'a table',
    'a chair',
    'a house',
    'a rocket',
    'a car',
    'a duck',
    'a red cube',
    'a red cube on top of a blue cylinder',
)


def add_article(noun: str) -> str:
    """Put the article before a noun: `a hamburger`, `an orange cube`."""
    return f'{"an" if noun[0] in "aeiou" else "a"} {noun}'


OBJECT_NAMES = tuple(OBJECTS)  # without article
# prompts of the named objects whose front, side and back differ
PROMPTS_WITH_FRONT = tuple(add_article(name) for name in WITH_FRONT)


@dataclass(frozen=True)
class Thing:
    """An object or a shape as a prompt names it; '' where it says nothing."""

    noun: str
    color: str = ''
    size: str = ''
    part_color: str = ''  # of the object's second part

    def __str__(self) -> str:
        text = add_article(' '.join(filter(None, (self.size, self.color, self.noun))))
        return f'{text} with {_name_part(self)}' if self.part_color else text

    @property
    def is_plain(self) -> bool:
        """Say whether it is a named object as it is: `a duck`."""
        return self == Thing(self.noun) and self.noun in OBJECTS

    @property
    def carries(self) -> bool:
        """Say whether another thing can stand on top of it."""
        return self.noun in SHAPES or self.noun in SUPPORTS


@dataclass(frozen=True)
class Phrase:
    """What a prompt says: one thing, or two and how they stand to each other (one of `RELATIONS`)."""

    things: tuple[Thing, ...]
    relation: str = ''

    def __str__(self) -> str:
        return f' {self.relation} '.join(map(str, self.things))


def _name_part(thing: Thing) -> str:
    """Write a coloured part, plural ones without article: `a red roof`, `red legs`."""
    words = f'{thing.part_color} {PARTS[thing.noun]}'
    return words if words.endswith('s') else add_article(words)


_THING = (
    rf'(an? )?(?:({"|".join(SIZES)}) )?(?:({"|".join(COLORS)}) )?({"|".join((*OBJECTS, *SHAPES))})'
    rf'(?: with (?:an? )?({"|".join(COLORS)}) ({"|".join(sorted(set(PARTS.values())))}))?'
)


def read_phrase(text: str) -> Phrase:
    """Read a normalised prompt.

    Raises:
        ValueError: when the world has no such scene, naming those it has.

    >>> read_phrase('a small red house with a blue roof').things[0]
    Thing(noun='house', color='red', size='small', part_color='blue')
    >>> str(read_phrase('a duck on top of a orange cube'))
    'a duck on top of an orange cube'
    """
    if single := re.fullmatch(_THING, text):
        return Phrase((_read_thing(text, *single.groups()),))
    pair = re.fullmatch(f'{_THING} ({"|".join(RELATIONS)}) {_THING}', text)
    if not pair:
        _refuse(text)
    words = pair.groups()
    things = (_read_thing(text, *words[:6]), _read_thing(text, *words[7:]))
    if not (words[0] and words[7]) or any(thing.part_color for thing in things):
        _refuse(text)
    if words[6] == 'on top of' and not things[1].carries:
        can = ', '.join(map(add_article, SUPPORTS))
        advice = f"What can: {can} and any shape; or write '{things[0]} next to {things[1]}'."
        refuse(
            'scene', text, f'a lower thing that carries another, which {add_article(things[1].noun)} cannot', advice
        )
    return Phrase(things, words[6])


def _read_thing(
    text: str,
    article: str | None,
    size: str | None,
    color: str | None,
    noun: str,
    part_color: str | None,
    part: str | None,
) -> Thing:
    thing = Thing(noun, color or '', size or '', part_color or '')
    if noun in SHAPES and not color:
        _refuse(text)
    if part and PARTS.get(noun) != part:
        known = f"'with' the part {PARTS[noun]!r} of {noun!r}" if noun in PARTS else f"{noun!r} without 'with'"
        refuse('scene', text, known, f'The parts by object: {", ".join(f"{n}: {p}" for n, p in PARTS.items())}.')
    if not article and not thing.is_plain:
        _refuse(text)
    return thing


def _refuse(text: str) -> NoReturn:
    refuse(
        'scene',
        text,
        f'{", ".join(map(add_article, OBJECTS))} or a <color> <shape>, with {", ".join(SIZES)} and a color before the noun, '
        f"'with a <color> <part>' after an object, or two things without 'with', one 'on top of' or 'next to' the other; "
        f'the colors: {", ".join(COLORS)}; the shapes: {", ".join(SHAPES)}',
        "Write for example 'a small red car' or 'a duck on top of a blue cube'.",
    )
