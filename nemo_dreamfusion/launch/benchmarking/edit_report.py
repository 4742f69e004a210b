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

"""What a benchmark of edits found, as JSON, as a table and as a page with pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_dreamfusion.launch.benchmarking.machine import describe_machine
from nemo_dreamfusion.parts.files import write_atomically

WANTED = {
    'changed_delta_e': (15.0, -1),
    'kept_psnr_db': (28.0, 1),
    'iou_before': (0.95, 1),
}  # -1: at most, 1: at least
TITLES = {'changed_delta_e': 'ΔE2000 of what changes', 'kept_psnr_db': 'the rest, dB', 'iou_before': 'silhouette IoU'}
PAGE, TABLE = 'edits.md', 'table.md'


def write_edit_report(
    out: Path, settings: dict[str, Any], made: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write results.json, table.md and edits.md with its pictures into the folder; return what results.json holds.

    Args:
        out: the folder.
        settings: of the benchmark.
        made: one for each measured edit: edit, row, source, target, keeps_shape and its scores.
        failed: one for each that was not made: edit, row, source, target and the reason.
    """
    results: dict[str, Any] = {
        'settings': settings,
        'machine': describe_machine(),
        'edits': list(made),
        'failed': list(failed),
    }
    table = write_edit_table(made)
    pictures = [
        f'![{one["source"]} → {one["target"]}: before, after, true]({one["row"]}/edit-{one["edit"]:02d}/views.png)'
        for one in made
    ]
    names = [f'- edit {one["edit"]} by {one["row"]}: {one["reason"]}' for one in failed]
    lines = [
        '# Edits',
        table.rstrip(),
        '## Pictures',
        'Before, after, and the true scene; two views of each.',
        *pictures,
    ]
    lines += ['## Failed', *names] if names else []
    lines += ['## Made by', ', '.join(f'{key} {value}' for key, value in results['machine'].items()) + '.']
    write_atomically(out / 'results.json', json.dumps(results, indent=2) + '\n')
    write_atomically(out / TABLE, table)
    write_atomically(out / PAGE, '\n\n'.join(lines) + '\n')
    return results


def write_edit_table(made: Sequence[dict[str, Any]]) -> str:
    """Return the scores as a Markdown table, with a line for each row that counts what is as good as was wanted.

    The silhouette counts where the shape must stay, the rest where there is any.
    """
    lines = ['| | row | from | to | ' + ' | '.join(TITLES.values()) + ' | s |', '|---' * (5 + len(TITLES)) + '|']
    for one in made:
        cells = [_cell(one[key], key) if _counts(one, key) else '' for key in TITLES]
        seconds = '' if one['fit_seconds'] is None else f'{one["fit_seconds"]:.0f}'
        lines.append(
            f'| {one["edit"]} | {one["row"]} | {one["source"]} | {one["target"]} | {" | ".join(cells)} | {seconds} |'
        )
    for row in dict.fromkeys(one['row'] for one in made):
        counts = []
        for key in TITLES:
            own = [one for one in made if one['row'] == row and _counts(one, key)]
            counts.append(f'{sum(is_good(one[key], key) for one in own)} of {len(own)}')
        lines.append(f'| | {row} | | as good as wanted | {" | ".join(counts)} | |')
    return '\n'.join(lines) + '\n'


def is_good(value: float, key: str) -> bool:
    """Return whether a score is as good as was wanted."""
    limit, sign = WANTED[key]
    return sign * value >= sign * limit


def _counts(one: dict[str, Any], key: str) -> bool:
    return one[key] is not None and (key != 'iou_before' or one['keeps_shape'])


def _cell(value: float, key: str) -> str:
    text = f'{value:.3f}' if key == 'iou_before' else f'{value:.1f}'
    return f'**{text}**' if is_good(value, key) else text
