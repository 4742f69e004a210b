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

"""From a prompt to its true scene, and from a view to its caption."""

from __future__ import annotations

import re
from functools import lru_cache

from nemo_dreamfusion.pocket.world.objects import OBJECTS, WITH_FRONT
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene, Vector

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

# kind and size of a shape alone in the scene, and its half height.
SHAPES: dict[str, tuple[str, Vector, float]] = {
    'sphere': ('ellipsoid', (0.8, 0.8, 0.8), 0.8),
    'cube': ('box', (0.55, 0.55, 0.55), 0.55),
    'cylinder': ('cylinder', (0.55, 0.68, 0.0), 0.68),
    'cone': ('cone', (0.68, 0.72, 0.0), 0.72),
    'torus': ('torus', (0.58, 0.26, 0.0), 0.26),
    'pyramid': ('pyramid', (0.64, 0.66, 0.0), 0.66),
    'capsule': ('capsule', (0.42, 0.38, 0.0), 0.8),
}

PAIR_SCALE = 0.6
VIEWS = ('front view', 'side view', 'back view', 'overhead view')
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

_SINGLE = rf'an? ({"|".join(COLORS)}) ({"|".join(SHAPES)})'


def with_article(noun: str) -> str:
    """`a hamburger`, `an orange cube`."""
    return f'{"an" if noun[0] in "aeiou" else "a"} {noun}'


def normalised(prompt: str) -> str:
    """The prompt in lower case with single spaces, without its view suffix or a final full stop."""
    text = re.sub(r'\s+', ' ', prompt.lower()).strip().rstrip('.')
    return re.sub(rf'\s*,\s*({"|".join(VIEWS)})$', '', text)


def object_names() -> tuple[str, ...]:
    """The named objects, without article."""
    return tuple(OBJECTS)


def objects_with_front() -> tuple[str, ...]:
    """Prompts of the named objects whose front, side and back differ."""
    return tuple(with_article(name) for name in WITH_FRONT)


def known_words() -> tuple[str, ...]:
    """Every word that a caption of this world may contain, the comma included, sorted."""
    text = ' '.join([*OBJECTS, *COLORS, *SHAPES, *VIEWS, 'a an on top of ,'])
    return tuple(sorted(set(text.split())))


@lru_cache(maxsize=256)
def _scene(text: str) -> Scene:
    named = re.fullmatch(rf'(?:an? )?({"|".join(OBJECTS)})', text)
    if named:
        return Scene(OBJECTS[named[1]]())
    single = re.fullmatch(_SINGLE, text)
    if single:
        return Scene([_shape(*single.groups())])
    pair = re.fullmatch(f'{_SINGLE} on top of {_SINGLE}', text)
    if pair:
        return Scene(_stack(pair.groups()))
    raise ValueError(
        f'the pocket world has no scene for {text!r}; it knows {", ".join(map(with_article, OBJECTS))}, '
        f"'a <color> <shape>' and 'a <color> <shape> on top of a <color> <shape>' with the colors "
        f'{", ".join(COLORS)} and the shapes {", ".join(SHAPES)}'
    )


def scene(prompt: str) -> Scene:
    """The true scene of a prompt (a view suffix is ignored); ValueError when the world has none."""
    return _scene(normalised(prompt))


def _shape(color: str, shape: str) -> Primitive:
    kind, size, _ = SHAPES[shape]
    return Primitive(kind, (0.0, 0.0, 0.0), size, COLORS[color])


def _stack(words: tuple[str, ...]) -> list[Primitive]:
    """Two scaled shapes that touch in a horizontal plane, centred as a whole."""
    upper, lower = _shape(*words[:2]).scaled(PAIR_SCALE), _shape(*words[2:]).scaled(PAIR_SCALE)
    up, low = (PAIR_SCALE * SHAPES[shape][2] for shape in (words[1], words[3]))
    return [upper.moved((0, low, 0)), lower.moved((0, -up, 0))]


def view_suffix(azimuth_deg: float, elevation_deg: float) -> str:
    """`front view` (|azimuth| < 60°), `side view`, `back view` (> 120°), or `overhead view` (elevation > 60°)."""
    if elevation_deg > 60:
        return 'overhead view'
    turned = abs((azimuth_deg + 180) % 360 - 180)
    return 'front view' if turned < 60 else 'back view' if turned > 120 else 'side view'


def caption(name: str, azimuth_deg: float, elevation_deg: float) -> str:
    """The prompt with its view suffix: `a duck, side view`."""
    return f'{name}, {view_suffix(azimuth_deg, elevation_deg)}'
