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

"""Curves of a fit as SVG that stands in a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 300, 130  # units of the picture, as pixels where it is not scaled
_LEFT, _RIGHT, _TOP, _BOTTOM = 8, 8, 36, 20


def draw_curve(name: str, steps: Sequence[int], values: Sequence[float]) -> str:
    """Return one curve as an ``<svg>`` element, with its name, its ends, and its lowest and highest value.

    Args:
        name: what it shows.
        steps: [N], ascending.
        values: [N]; the line has a gap where one is not finite.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _frame(name, _text(_WIDTH / 2, _HEIGHT / 2, 'no finite value', 'middle'), '')
    low, high = min(finite), max(finite)
    lines = ' '.join(
        f'<polyline fill="none" stroke="#27c" stroke-width="1.5" points="{points}"/>'
        for points in _pieces(steps, values, low, high)
    )
    ends = _text(_LEFT, _HEIGHT - 6, f'step {steps[0]}') + _text(_WIDTH - _RIGHT, _HEIGHT - 6, f'{steps[-1]}', 'end')
    return _frame(name, lines + ends, f'{low:.3g} to {high:.3g}, last {_last(values)}')


def _pieces(steps: Sequence[int], values: Sequence[float], low: float, high: float) -> list[str]:
    """Return the points of each unbroken part of the line."""
    span, rise = max(steps[-1] - steps[0], 1), (high - low) or 1.0
    pieces: list[list[str]] = [[]]
    for step, value in zip(steps, values):
        if not math.isfinite(value):
            pieces.append([])
            continue
        x = _LEFT + (step - steps[0]) / span * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (value - low) / rise * (_HEIGHT - _TOP - _BOTTOM)
        pieces[-1].append(f'{x:.1f},{y:.1f}')
    return [' '.join(piece * 2 if len(piece) == 1 else piece) for piece in pieces if piece]


def _last(values: Sequence[float]) -> str:
    return f'{values[-1]:.3g}' if math.isfinite(values[-1]) else 'not finite'


def _frame(name: str, inside: str, summary: str) -> str:
    title = _text(_LEFT, 16, name) + _text(_LEFT, 29, summary)
    label = escape(f'{name}: {summary}' if summary else name)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{title}{inside}</svg>'


def _text(x: float, y: float, text: str, anchor: str = 'start') -> str:
    style = 'font-size="10" fill="currentColor"'
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {style}>{escape(text)}</text>'
