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

"""Build the true scene of a prompt, and write the caption of a view."""

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

# kind and size (see Primitive) of a shape alone in the scene, and its half height
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

OBJECT_NAMES = tuple(OBJECTS)  # without article
# every word that a caption of this world may hold, the comma included, sorted
KNOWN_WORDS = tuple(sorted(set(' '.join([*OBJECTS, *COLORS, *SHAPES, *VIEWS, 'a an on top of ,']).split())))

_SINGLE = rf'an? ({"|".join(COLORS)}) ({"|".join(SHAPES)})'


def add_article(noun: str) -> str:
    """Put the article before a noun: `a hamburger`, `an orange cube`."""
    return f'{"an" if noun[0] in "aeiou" else "a"} {noun}'


def normalize(prompt: str) -> str:
    """Write a prompt in lower case with single spaces, without its view suffix and final full stop."""
    text = re.sub(r'\s+', ' ', prompt.lower()).strip().rstrip('.')
    return re.sub(rf'\s*,\s*({"|".join(VIEWS)})$', '', text)


# prompts of the named objects whose front, side and back differ
PROMPTS_WITH_FRONT = tuple(add_article(name) for name in WITH_FRONT)


@lru_cache(maxsize=256)
def _build_scene(text: str) -> Scene:
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
        f'the pocket world has no scene for {text!r}; it knows {", ".join(map(add_article, OBJECTS))}, '
        f"'a <color> <shape>' and 'a <color> <shape> on top of a <color> <shape>' with the colors "
        f'{", ".join(COLORS)} and the shapes {", ".join(SHAPES)}'
    )


def build_scene(prompt: str) -> Scene:
    """Build the true scene of a prompt; a view suffix is ignored.

    Raises:
        ValueError: when the world has no such scene, naming those it has.
    """
    return _build_scene(normalize(prompt))


def _shape(color: str, shape: str) -> Primitive:
    kind, size, _ = SHAPES[shape]
    return Primitive(kind, (0.0, 0.0, 0.0), size, COLORS[color])


def _stack(words: tuple[str, ...]) -> list[Primitive]:
    """Scale two shapes and stack them: they touch in a horizontal plane, centred as a whole."""
    upper, lower = _shape(*words[:2]).scale(PAIR_SCALE), _shape(*words[2:]).scale(PAIR_SCALE)
    up, low = (PAIR_SCALE * SHAPES[shape][2] for shape in (words[1], words[3]))
    return [upper.translate((0, low, 0)), lower.translate((0, -up, 0))]


def name_view(azimuth_deg: float, elevation_deg: float) -> str:
    """Return `front view` (|azimuth| < 60°), `side view`, `back view` (> 120°) or `overhead view` (elevation > 60°)."""
    if elevation_deg > 60:
        return 'overhead view'
    turned = abs((azimuth_deg + 180) % 360 - 180)
    return 'front view' if turned < 60 else 'back view' if turned > 120 else 'side view'


def write_caption(name: str, azimuth_deg: float, elevation_deg: float) -> str:
    """Put the name of the view behind a prompt: `a duck, side view`."""
    return f'{name}, {name_view(azimuth_deg, elevation_deg)}'
