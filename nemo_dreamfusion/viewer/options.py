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

"""What the viewer is told: by its node of the configuration, and by the page, whose every value is put into range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nemo_dreamfusion.parts.checks import check_choice, check_range, refuse
from nemo_dreamfusion.parts.optional import require

HOST = '127.0.0.1'  # nobody but the users of this machine
SMALLEST, LARGEST = 32, 1024  # pixels of a picture's height
LAYERS = ('albedo', 'shaded', 'phong', 'textureless', 'normals', 'depth', 'opacity')
BACKGROUNDS = ('as trained', 'white', 'gray', 'black')
FOV_DEG = (10.0, 100.0)


@dataclass(frozen=True)
class ViewerOptions:
    """The node ``viewer`` of the configuration."""

    enabled: bool = False  # during a fit; mode=view always opens it
    port: int = 8080  # 0: any that is free
    resolution: int = 256  # pixels of a picture's height, at rest

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: for a value out of range, or a port that this user may not take.
        """
        check_choice('viewer.enabled', self.enabled, (False, True))
        check_range('viewer.resolution', self.resolution, SMALLEST, LARGEST, integer=True)
        check_range('viewer.port', self.port, 0, 65535, integer=True)
        if 0 < self.port < 1024:
            refuse('viewer.port', self.port, '0 or from 1024 to 65535', 'Set viewer.port=8080.')


def require_viser() -> Any:
    """Import viser, or say how to install it."""
    return require('viser', extra='viewer', reason='the viewer is made with it', instead='viewer.enabled=false')


@dataclass(frozen=True)
class Look:
    """How the scene is shown, beside from where."""

    layer: str = 'albedo'
    light_azimuth_deg: float = 30.0
    light_elevation_deg: float = 40.0
    ambient: float = 0.3
    background: str = 'as trained'
    resolution: int = 256  # pixels of the picture's height
    box: tuple[tuple[float, float], ...] = ((-1.0, 1.0),) * 3  # shares of the scene's bound along x, y, z

    @property
    def is_cut(self) -> bool:
        """Whether something of the scene is left out."""
        return any(pair != (-1.0, 1.0) for pair in self.box)

    @classmethod
    def from_page(cls, **given: Any) -> Look:
        """Make one of whatever the page sent: numbers are put into range, other choices become the first."""
        base = cls()
        spans = given.get('box') or base.box
        return cls(
            layer=_choose(given.get('layer'), LAYERS),
            light_azimuth_deg=within(given.get('light_azimuth_deg'), -180.0, 180.0, base.light_azimuth_deg),
            light_elevation_deg=within(given.get('light_elevation_deg'), -90.0, 90.0, base.light_elevation_deg),
            ambient=within(given.get('ambient'), 0.0, 1.0, base.ambient),
            background=_choose(given.get('background'), BACKGROUNDS),
            resolution=int(within(given.get('resolution'), SMALLEST, LARGEST, base.resolution)),
            box=tuple(_span(pair) for pair in spans),
        )


def within(value: Any, low: float, high: float, otherwise: float) -> float:
    """Return a number between ``low`` and ``high``; ``otherwise`` for what is no finite number.

    >>> within(7, 0.0, 1.0, 0.5), within('x', 0.0, 1.0, 0.5), within(float('nan'), 0.0, 1.0, 0.5)
    (1.0, 0.5, 0.5)
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise
    return min(max(number, low), high) if math.isfinite(number) else otherwise


def _choose(value: Any, choices: tuple[str, ...]) -> str:
    return value if isinstance(value, str) and value in choices else choices[0]


def _span(pair: Any) -> tuple[float, float]:
    low, high = (within(value, -1.0, 1.0, edge) for value, edge in zip(pair, (-1.0, 1.0)))
    return min(low, high), max(low, high)
