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

"""Write captions, which say where the camera stands.

Azimuth 0 is the front (+z), positive toward +x; elevation is positive up.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch

from nemo_dreamfusion.parts.views import View, table_weights
from nemo_dreamfusion.pocket.world.grammar import COLORS, RELATIONS, SHAPES, SIZES
from nemo_dreamfusion.pocket.world.objects import OBJECTS, PARTS

AZIMUTH_VIEWS: tuple[tuple[float, str], ...] = (
    (0, 'front'),
    (45, 'front right'),
    (90, 'right side'),
    (135, 'back right'),
    (180, 'back'),
    (-135, 'back left'),
    (-90, 'left side'),
    (-45, 'front left'),
)
ELEVATION_VIEWS: tuple[tuple[float, str], ...] = ((-15, 'low'), (15, 'level'), (45, 'high'), (80, 'overhead'))
VIEWS = ('front view', 'side view', 'back view', 'overhead view')  # of the first published weights

# every word that a caption of this world may hold, the comma included, sorted
_PHRASES = [*OBJECTS, *COLORS, *SHAPES, *SIZES, *PARTS.values(), *RELATIONS, *VIEWS, 'a an with ,']
_PHRASES += [words for _, words in (*AZIMUTH_VIEWS, *ELEVATION_VIEWS)]
KNOWN_WORDS = tuple(sorted(set(' '.join(_PHRASES).split())))

_AZIMUTH_WORDS, _ELEVATION_WORDS = (
    '|'.join(words for _, words in views) for views in (AZIMUTH_VIEWS, ELEVATION_VIEWS)
)
_SUFFIX = rf'\s*,\s*(?:(?:{_AZIMUTH_WORDS}|side)(?: (?:{_ELEVATION_WORDS}))?|{_ELEVATION_WORDS}) view$'


def normalize(prompt: str) -> str:
    """Write a prompt in lower case with single spaces, without its view suffix and final full stop.

    >>> normalize('A  Duck, front right high view.')
    'a duck'
    """
    text = re.sub(r'\s+', ' ', prompt.lower()).strip().rstrip('.')
    return re.sub(_SUFFIX, '', text)


@lru_cache(maxsize=1)
def _views() -> tuple[View, ...]:
    return tuple(
        View(name := f'{around} {above}', azimuth, elevation, f', {name} view')
        for elevation, above in ELEVATION_VIEWS
        for azimuth, around in AZIMUTH_VIEWS
    )


def camera_words() -> list[View]:
    """Return the 32 views: index 8·i + j for the i-th of `ELEVATION_VIEWS` and the j-th of `AZIMUTH_VIEWS`."""
    return list(_views())


def write_caption(prompt: str, azimuth_deg: float, elevation_deg: float) -> str:
    """Put the nearest view behind a prompt: `a duck, right side level view`."""
    weights = table_weights(_views(), torch.tensor([azimuth_deg]), torch.tensor([elevation_deg]))
    return prompt + _views()[int(weights.argmax())].text
