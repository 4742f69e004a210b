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

"""The report on judged runs: means over the prompts with their intervals, a line for each object, and the pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo_dreamfusion.export.contact_sheet import save_contact_sheet
from nemo_dreamfusion.launch.benchmarking.statistics import Interval, bootstrap
from nemo_dreamfusion.launch.measuring.manifest import read_record
from nemo_dreamfusion.launch.measuring.runs import FinishedRun
from nemo_dreamfusion.metrics.base import OVERVIEW, Column, Metric
from nemo_dreamfusion.metrics.captions import normalise
from nemo_dreamfusion.parts.files import write_atomically

ON_A_SHEET = 20  # objects
Records = dict[str, dict[str, Any]]  # of one encoder or scorer, by object


def write_report(metric: Metric, out: Path, runs: Sequence[FinishedRun]) -> tuple[dict[str, Any], str]:
    """Write ``report.md``, ``report.json``, a CSV for each encoder or scorer, and sheets of pictures to ``out/report``.

    Every encoder whose stage is finished for all objects has a row, also those of earlier calls.

    Returns:
        What report.json holds, and the table.
    """
    folder = out / 'report'
    judges = {name: found for name in _judges(out, metric) if (found := _read_all(out, name, runs)) is not None}
    rows = {name: _means(metric, records) for name, records in judges.items()}
    prompts = len({normalise(run.prompt) for run in runs})
    report: dict[str, Any] = {
        'metric': metric.name,
        'objects': len(runs),
        'prompts': prompts,
        'columns': {name: column.meaning for name, column in metric.columns.items()},
        'rows': {name: {key: one and asdict(one) for key, one in row.items()} for name, row in rows.items()},
        'notes': metric.notes(),
    }
    table = _table(metric, rows, len(runs), prompts)
    if waiting := [name for name in _judges(out, metric) if name not in judges]:
        table += f'\nLeft out, until its stage score has all objects: {", ".join(waiting)}.'
    sheets = _save_sheets(out, runs, judges[metric.judge.name])
    for name, records in judges.items():
        write_atomically(folder / f'objects-{name}.csv', _csv(metric, records))
    write_atomically(folder / 'report.json', json.dumps(report, indent=2, ensure_ascii=False) + '\n')
    write_atomically(folder / 'report.md', _page(metric, table, judges[metric.judge.name], sheets))
    return report, f'{table}\n\nDone: {folder / "report.md"}'


def _judges(out: Path, metric: Metric) -> list[str]:
    found = {path.parent.name.removeprefix('score-') for path in out.glob('score-*/manifest.json')}
    return sorted(found | {metric.judge.name})


def _read_all(out: Path, judge: str, runs: Sequence[FinishedRun]) -> Records | None:
    """Return the scores of all objects; None where one is missing."""
    found = {run.name: read_record(out / f'score-{judge}' / f'{run.name}.json') for run in runs}
    return None if None in found.values() else {name: record for name, record in found.items() if record}


def _means(metric: Metric, records: Records) -> dict[str, Interval | None]:
    """Return the mean of each column over the prompts, of which each is the mean over its runs."""
    means = {}
    for name in metric.columns:
        by_prompt: dict[str, list[float]] = {}
        for record in records.values():
            by_prompt.setdefault(normalise(record['prompt']), []).append(record['values'][name])
        means[name] = bootstrap(by_prompt)
    return means


def _table(metric: Metric, rows: dict[str, dict[str, Interval | None]], objects: int, prompts: int) -> str:
    lines = [f'| {metric.name} | ' + ' | '.join(metric.columns) + ' |', '|---' * (len(metric.columns) + 1) + '|']
    for judge, row in rows.items():
        cells = [_cell(row[name], column, prompts) for name, column in metric.columns.items()]
        lines.append(f'| {judge} | ' + ' | '.join(cells) + ' |')
    interval = ', with 95 % intervals over the prompts (bootstrap)' if prompts > 1 else '; one prompt has no interval'
    counted = f'{_count(objects, "object")} of {_count(prompts, "prompt")}'
    return '\n'.join([*lines, '', f'Means over {counted}{interval}.'])


def _cell(mean: Interval | None, column: Column, prompts: int) -> str:
    if mean is None:
        return ''
    values = [mean.mean, mean.low, mean.high] if prompts > 1 else [mean.mean]
    written = [f'{100 * value:.1f}' if column.share else f'{value:.2f}' for value in values]
    unit = ' %' if column.share else ''
    return f'{written[0]}{unit}' + (f' ({written[1]} to {written[2]})' if prompts > 1 else '')


def _csv(metric: Metric, records: Records) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow(['object', 'prompt', *metric.columns, 'remark'])
    for name, record in records.items():
        writer.writerow([name, record['prompt'], *(record['values'][key] for key in metric.columns), record['remark']])
    return stream.getvalue()


def _page(metric: Metric, table: str, records: Records, sheets: Sequence[Path]) -> str:
    lines = [f'# {metric.name}', '', *(f'{note}\n' for note in metric.notes()), table, '']
    lines += [f'- `{name}`: {column.meaning}' for name, column in metric.columns.items()]
    lines += ['', *metric.published(), '', f'## Objects, by {metric.judge.name}', '']
    lines += [f'| prompt | {" | ".join(metric.columns)} | |', '|---' * (len(metric.columns) + 2) + '|']
    for record in records.values():
        cells = [
            _cell(Interval(value, value, value), column, 1)
            for name, column in metric.columns.items()
            for value in [record['values'][name]]
        ]
        lines.append(f'| {_plain(record["prompt"])} | {" | ".join(cells)} | {_plain(record["remark"])} |')
    lines += ['', *(f'![objects]({sheet.name})' for sheet in sheets)]
    return '\n'.join(lines) + '\n'


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}' + ('' if number == 1 else 's')


def _plain(text: str) -> str:
    return text.replace('|', '\\|')


def _save_sheets(out: Path, runs: Sequence[FinishedRun], records: Records) -> list[Path]:
    """Write the pictures of all objects, some on a sheet; those without pictures on this machine are left out."""
    seen = [run for run in runs if (out / 'render' / run.name / OVERVIEW).is_file()]
    sheets = []
    for i in range(0, len(seen), ON_A_SHEET):
        rows = []
        for run in seen[i : i + ON_A_SHEET]:
            remark = records[run.name]['remark']
            rows.append((f'{run.prompt}   {remark}', out / 'render' / run.name / OVERVIEW))
        path = out / 'report' / f'objects-{i // ON_A_SHEET + 1}.png'
        sheets.append(save_contact_sheet(rows, path))
    return sheets
