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

"""Write captions, which say where the camera stands, and mix the views between which it stands.

Shapes: B cameras. Azimuth 0 is the front (+z), positive toward +x; elevation is positive up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class View:
    """A named direction from which the camera looks."""

    name: str  # `front right high`
    azimuth_deg: float
    elevation_deg: float
    text: str  # what a caption says of it: `front right high view`


@lru_cache(maxsize=1)
def _views() -> tuple[View, ...]:
    return tuple(
        View(name := f'{around} {above}', azimuth, elevation, f'{name} view')
        for elevation, above in ELEVATION_VIEWS
        for azimuth, around in AZIMUTH_VIEWS
    )


def camera_words() -> list[View]:
    """Return the 32 views: index 8·i + j for the i-th of `ELEVATION_VIEWS` and the j-th of `AZIMUTH_VIEWS`."""
    return list(_views())


def mix_weights(azimuth_deg: Tensor, elevation_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four views around each camera and their shares.

    The weights are linear in the azimuth between neighbours around the circle, and in the elevation between bands; beyond
    the lowest and the highest band, that band alone counts.

    Args:
        azimuth_deg: [B], any number of turns.
        elevation_deg: [B].

    Returns:
        Indices of :func:`camera_words`, [B, 4] int64, and weights [B, 4] that sum to 1.
    """
    count = len(AZIMUTH_VIEWS)
    turned = torch.remainder(azimuth_deg, 360.0) / (360.0 / count)
    left = turned.floor()
    along = turned - left
    first = left.long() % count  # a remainder may round up to 360
    bands = torch.tensor([e for e, _ in ELEVATION_VIEWS], dtype=elevation_deg.dtype, device=elevation_deg.device)
    clamped = elevation_deg.clamp(bands[0], bands[-1]).contiguous()
    lower = (torch.searchsorted(bands, clamped, right=True) - 1).clamp(0, len(bands) - 2)
    up = (clamped - bands[lower]) / (bands[lower + 1] - bands[lower])
    index = [count * band + azimuth for band in (lower, lower + 1) for azimuth in (first, (first + 1) % count)]
    weights = [band * azimuth for band in (1 - up, up) for azimuth in (1 - along, along)]
    return torch.stack(index, -1), torch.stack(weights, -1)


def write_caption(prompt: str, azimuth_deg: float, elevation_deg: float) -> str:
    """Put the nearest view behind a prompt: `a duck, right side level view`."""
    index, weights = mix_weights(torch.tensor([float(azimuth_deg)]), torch.tensor([float(elevation_deg)]))
    return f'{prompt}, {_views()[int(index[0, weights[0].argmax()])].text}'
