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

"""Measure where the time of a training step goes: shares by part, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType

# An operator belongs to a part when its name, or that of an operator around it, holds one of these words. (Gradients of
# our operators have names such as GeneratedBackwardFor_nemo_dreamfusion_hash_grid_default.)
OPERATORS = {
    'march': ('nemo_dreamfusion_march',),
    'encode': ('nemo_dreamfusion_hash_grid',),
    'MLP': (
        *('nemo_dreamfusion_relu_mlp', 'aten_linear', 'aten_addmm', 'aten_mm', 'aten_relu', 'aten_clamp_min'),
        'threshold_backward',
    ),
    'composite': (
        'nemo_dreamfusion_render_weights',
        'nemo_dreamfusion_accumulate',
        'nemo_dreamfusion_visible_prefix',
    ),
}
# Everything within these ranges belongs to the part, whatever its name.
RANGES = {'guidance': 'guidance', 'optimizer': 'Optimizer.step'}
ALONE = {'_adan_kernel': 'optimizer'}
BACKWARD = 'autograd::engine::evaluate_function'
PARTS = ('march', 'encode', 'MLP', 'composite', 'guidance', 'optimizer', 'other')
COLOURS = dict(zip(PARTS, ('#4c78a8', '#f58518', '#54a24b', '#b279a2', '#eeca3b', '#e45756', '#9d9da1')))


def shares(step: Callable[[], object], repeats: int = 10) -> dict[str, float]:
    """Return milliseconds per step by part (device time on CUDA)."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    step()
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(repeats):
            step()
    totals = by_part(profile.events(), 'self_device_time_total' if on_cuda else 'self_cpu_time_total')
    return {part: microseconds / 1000 / repeats for part, microseconds in totals.items()}


def by_part(events: Iterable[Any], time: str) -> dict[str, float]:
    """Return the events' own time by part.

    A kernel on the device is an event of its own, and its time is also that of the operator which launched it: only
    operators count, and the kernels of :data:`ALONE`, which no operator launches. A gradient belongs to the part of its
    operator, found by their common sequence number.

    Args:
        events: of torch's profiler.
        time: the attribute that holds an event's own time.
    """
    events = list(events)
    operators = [event for event in events if event.device_type == DeviceType.CPU]
    forward: dict[int, str] = {}
    for event in sorted(operators, key=lambda e: e.time_range.start):
        # of the operators with one sequence number, the last to begin has the gradient
        if event.sequence_nr >= 0 and not any(e.name.startswith(BACKWARD) for e in _with_parents(event)):
            forward[event.sequence_nr] = _part(event, {})
    totals = dict.fromkeys(PARTS, 0.0)
    for event in operators:
        totals[_part(event, forward)] += getattr(event, time)
    for event in events if time.startswith('self_device') else ():
        if event.device_type != DeviceType.CPU and event.name in ALONE:
            totals[ALONE[event.name]] += event.time_range.elapsed_us()
    return totals


def _with_parents(event: Any) -> list[Any]:
    chain = []
    while event is not None:
        chain.append(event)
        event = event.cpu_parent
    return chain


def _part(event: Any, forward: dict[int, str]) -> str:
    chain = _with_parents(event)
    for part, name in RANGES.items():
        if any(e.name.startswith(name) for e in chain):
            return part
    for e in chain:
        if e.name.startswith(BACKWARD) and forward.get(e.sequence_nr, 'other') != 'other':
            return forward[e.sequence_nr]
    names = [e.name.replace('::', '_') for e in chain]
    for part, words in OPERATORS.items():
        if any(word in name for name in names for word in words):
            return part
    return 'other'


def picture(steps: dict[str, dict[str, float]], title: str) -> str:
    """Draw one horizontal bar for each step, as SVG."""
    height = 40 + 115 * len(steps)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{height}" font-family="sans-serif" font-size="14">',
        f'<rect width="800" height="{height}" fill="white"/>',
        f'<text x="20" y="26" font-weight="bold">{title}</text>',
    ]
    for i, (name, totals) in enumerate(steps.items()):
        lines += _bar(name, totals, 50 + 115 * i)
    return '\n'.join([*lines, '</svg>', ''])


def _bar(name: str, totals: dict[str, float], top: int) -> list[str]:
    whole, left = sum(totals.values()) or 1.0, 20.0
    lines = [f'<text x="20" y="{top + 12}">{name}: {whole:.1f} ms</text>']
    for i, (part, value) in enumerate(totals.items()):
        length, colour = 760 * value / whole, COLOURS[part]
        lines.append(f'<rect x="{left:.1f}" y="{top + 20}" width="{length:.1f}" height="30" fill="{colour}"/>')
        x, y = 20 + 190 * (i % 4), top + 70 + 22 * (i // 4)
        lines.append(f'<rect x="{x}" y="{y - 12}" width="14" height="14" fill="{colour}"/>')
        lines.append(f'<text x="{x + 20}" y="{y}">{part}: {value:.1f} ms, {100 * value / whole:.0f} %</text>')
        left += length
    return lines
