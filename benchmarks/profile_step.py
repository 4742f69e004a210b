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

"""Where one training step's time goes: shares by part, and a picture of them."""

from __future__ import annotations

from collections.abc import Callable

import torch

# The first part of which a word stands in a profiled operator's name owns that operator's own time. (The time of our
# operators with gradients goes by names such as GeneratedBackwardFor_nemo_dreamfusion_hash_grid_default.)
PARTS = {
    'march': ('nemo_dreamfusion_march',),
    'encode': ('nemo_dreamfusion_hash_grid',),
    'MLP': ('nemo_dreamfusion_relu_mlp', 'aten_addmm', 'aten_mm', 'aten_relu', 'aten_clamp_min', 'threshold_backward'),
    'composite': (
        'nemo_dreamfusion_render_weights',
        'nemo_dreamfusion_accumulate',
        'nemo_dreamfusion_visible_prefix',
    ),
    'optimizer': ('nemo_dreamfusion_adan_step', 'Optimizer.step', 'aten_linalg_vector_norm'),
}
COLOURS = {
    'march': '#4c78a8',
    'encode': '#f58518',
    'MLP': '#54a24b',
    'composite': '#b279a2',
    'optimizer': '#e45756',
    'other': '#9d9da1',
}


def shares(step: Callable[[], object], repeats: int = 10) -> dict[str, float]:
    """Milliseconds per step by part (device time on CUDA)."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(repeats):
            step()
    totals = dict.fromkeys([*PARTS, 'other'], 0.0)
    for event in profile.key_averages():
        key = event.key.replace('::', '_')
        part = next((name for name, words in PARTS.items() if any(word in key for word in words)), 'other')
        spent = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        totals[part] += spent / 1000 / repeats
    return totals


def picture(totals: dict[str, float], title: str) -> str:
    """One horizontal bar as SVG."""
    whole, width, left, parts = sum(totals.values()), 760, 20, []
    for i, (name, value) in enumerate(totals.items()):
        length = width * value / whole
        parts.append(f'<rect x="{left:.1f}" y="40" width="{length:.1f}" height="46" fill="{COLOURS[name]}"/>')
        x, y = 20 + 255 * (i % 3), 116 + 26 * (i // 3)
        parts.append(f'<rect x="{x}" y="{y - 12}" width="14" height="14" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 22}" y="{y}">{name}: {value:.1f} ms, {100 * value / whole:.0f} %</text>')
        left += length
    body = '\n'.join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="165" font-family="sans-serif" font-size="14">\n'
        f'<rect width="800" height="165" fill="white"/>\n<text x="20" y="26">{title}</text>\n{body}\n</svg>\n'
    )
