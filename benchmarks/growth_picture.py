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

"""Draw costs against work on logarithmic axes, as SVG: a panel for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS, WIDTH, HEIGHT = 3, 300, 250  # of panels; pixels of one
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 46, 42  # pixels around the axes
LINE, POINT, IDEAL = '#4c78a8', '#e45756', '#9d9da1'


@dataclass(frozen=True)
class Panel:
    """One curve."""

    title: str
    unit: str  # of the work
    work: Sequence[float]
    seconds: Sequence[float]
    exponent: float
    last_exponent: float


def picture(panels: Sequence[Panel]) -> str:
    """Return panels side by side. A grey line has the slope 1, through the last point."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i, panel in enumerate(panels):
        lines += [f'<g transform="translate({i % COLUMNS * WIDTH} {i // COLUMNS * HEIGHT})">', *_draw(panel), '</g>']
    return '\n'.join([*lines, '</svg>', ''])


def _draw(panel: Panel) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    across = _Axis(panel.work, LEFT, right)
    up = _Axis(panel.seconds, bottom, TOP)
    points = [(across.at(x), up.at(y)) for x, y in zip(panel.work, panel.seconds)]
    ideal = [panel.seconds[-1] * x / panel.work[-1] for x in panel.work]
    grey = [(across.at(x), up.at(y)) for x, y in zip(panel.work, ideal) if up.low <= math.log(y)]
    exponents = f'exponent {panel.exponent:.2f}, of the last two {panel.last_exponent:.2f}'
    lines = [
        f'<text x="{LEFT}" y="18" font-size="11">{panel.title}</text>',
        f'<text x="{LEFT}" y="36" font-weight="bold">{exponents}</text>',
        f'<path d="M{LEFT} {TOP} V{bottom} H{right}" fill="none" stroke="black"/>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{panel.unit}</text>',
        _path(grey, IDEAL),
        _path(points, LINE),
    ]
    lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{POINT}"/>' for x, y in points]
    for value in panel.work:
        x = across.at(value)
        lines.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" font-size="10">{_short(value)}</text>')
    for value in (panel.seconds[0], panel.seconds[-1]):
        y = up.at(value) + 4
        lines.append(f'<text x="{LEFT - 5}" y="{y:.1f}" text-anchor="end" font-size="10">{_duration(value)}</text>')
    return lines


class _Axis:
    """Places on a logarithmic axis with a tenth of its length free at both ends."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        logs = [math.log(value) for value in values]
        margin = 0.1 * ((max(logs) - min(logs)) or 1.0)
        self.low, self.high = min(logs) - margin, max(logs) + margin
        self.begin, self.end = begin, end

    def at(self, value: float) -> float:
        share = (math.log(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)


def _path(points: Sequence[tuple[float, float]], colour: str) -> str:
    places = ' '.join(f'{x:.1f},{y:.1f}' for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _short(value: float) -> str:
    return f'{value / 1000:.3g}k' if value >= 1000 else f'{value:.3g}'


def _duration(seconds: float) -> str:
    return f'{seconds:.3g} s' if seconds >= 1 else f'{1000 * seconds:.3g} ms'
