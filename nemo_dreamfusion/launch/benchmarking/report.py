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

"""What a benchmark found, as JSON, as a table and as a page with pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from nemo_dreamfusion.launch.benchmarking.machine import describe_machine
from nemo_dreamfusion.launch.benchmarking.pictures import save_pictures
from nemo_dreamfusion.launch.benchmarking.plan import Plan
from nemo_dreamfusion.launch.benchmarking.statistics import Interval, bootstrap
from nemo_dreamfusion.parts.files import write_atomically


@dataclass(frozen=True)
class Column:
    """A number of the table."""

    title: str
    digits: int
    better: int  # +1: more is better, -1: less


COLUMNS = {
    'f_score_2': Column('F-score 2 %', 3, 1),
    'f_score_1': Column('F-score 1 %', 3, 1),
    'chamfer': Column('Chamfer', 4, -1),
    'normal_consistency': Column('normals', 3, 1),
    'iou': Column('IoU', 3, 1),
    'psnr_db': Column('PSNR, dB', 2, 1),
    'delta_e': Column('ΔE2000', 2, -1),
    'view_accuracy': Column('views right', 3, 1),
    'retrieved': Column('retrieved', 3, 1),
    'fit_seconds': Column('fit, s', 1, -1),
}
RANKED_BY = 'f_score_2'
Means = dict[str, dict[str, Interval | None]]  # of each row, of each of COLUMNS
Values = dict[tuple[str, int], float]  # of a column of a row, for each prompt and seed


def write_report(plan: Plan, objects: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write results.json, table.md, leaderboard.md and its pictures into the folder; return what results.json holds.

    Args:
        plan: of the benchmark.
        objects: one for each measured fit: row, seed, prompt and its scores.
        failed: one for each fit that was not made or measured: row, seed, prompt and the reason.
    """
    means, differences = compute_means(plan, objects), compute_differences(plan, objects)
    results = {
        'settings': plan.settings,
        'machine': describe_machine(),
        'rows': _to_plain(means),
        'differences': {'against': next(iter(plan.rows)), 'rows': _to_plain(differences)},
        'overlaps': find_overlaps(means),
        'objects': list(objects),
        'failed': list(failed),
    }
    write_atomically(plan.out / 'results.json', json.dumps(results, indent=2) + '\n')
    write_atomically(plan.out / 'table.md', write_table(means))
    pictures = save_pictures(plan, objects)
    write_atomically(plan.out / 'leaderboard.md', _write_page(plan, results, means, differences, pictures))
    return results


def _to_plain(means: Means) -> dict[str, dict[str, Any]]:
    return {row: {key: asdict(one) if one else None for key, one in found.items()} for row, found in means.items()}


def compute_means(plan: Plan, objects: Sequence[dict[str, Any]]) -> Means:
    """Return the means with their intervals, the best row first."""
    means = {
        row: {key: bootstrap(_by_prompt(values), plan.bootstrap) for key, values in own.items()}
        for row in plan.rows
        if any((own := _read_columns(objects, row)).values())
    }

    def rank(row: str) -> float:
        found = means[row][RANKED_BY]
        return -found.mean if found else 0.0

    return {row: means[row] for row in sorted(means, key=rank)}


def compute_differences(plan: Plan, objects: Sequence[dict[str, Any]]) -> Means:
    """Return, for each row after the first, its differences to the first on the same prompts and seeds.

    Objects differ more than recipes do; a difference on the same object has a much narrower interval than two means.
    """
    first, *others = plan.rows
    reference = _read_columns(objects, first)
    if not any(reference.values()):
        return {}
    return {
        row: {key: bootstrap(_by_prompt(_subtract(own[key], reference[key])), plan.bootstrap) for key in COLUMNS}
        for row in others
        if any((own := _read_columns(objects, row)).values())
    }


def _read_columns(objects: Sequence[dict[str, Any]], row: str) -> dict[str, Values]:
    own = [{**one, 'retrieved': float(one['retrieval_rank'] == 1)} for one in objects if one['row'] == row]
    return {key: {(one['prompt'], one['seed']): one[key] for one in own if one[key] is not None} for key in COLUMNS}


def _subtract(values: Values, reference: Values) -> Values:
    return {which: value - reference[which] for which, value in values.items() if which in reference}


def _by_prompt(values: Values) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        found.setdefault(prompt, []).append(value)
    return found


def find_overlaps(means: Means) -> dict[str, list[list[str]]]:
    """Return, for each column, the pairs of rows whose intervals overlap, so that their order is not certain."""
    found: dict[str, list[list[str]]] = {}
    for key in COLUMNS:
        pairs = [(a, b, means[a][key], means[b][key]) for a, b in combinations(means, 2)]
        found[key] = [[a, b] for a, b, x, y in pairs if x and y and x.overlaps(y)]
    return found


def write_table(means: Means) -> str:
    """Return the means with their intervals as a Markdown table, the best of each column in bold."""
    return _write_rows(means, lambda key, one: _cell(key, one, means)) + '\n'


def _write_rows(means: Means, write_cell: Callable[[str, Interval | None], str]) -> str:
    lines = ['| row | ' + ' | '.join(column.title for column in COLUMNS.values()) + ' |']
    lines.append('|---' * (len(COLUMNS) + 1) + '|')
    for row, found in means.items():
        lines.append(f'| {row} | ' + ' | '.join(write_cell(key, found[key]) for key in COLUMNS) + ' |')
    return '\n'.join(lines)


def _cell(key: str, one: Interval | None, means: Means) -> str:
    if one is None:
        return ''
    column = COLUMNS[key]
    mean, low, high = (f'{value:.{column.digits}f}' for value in (one.mean, one.low, one.high))
    best = max(column.better * other.mean for found in means.values() if (other := found[key]))
    return f'{f"**{mean}**" if column.better * one.mean == best else mean} [{low}, {high}]'


def _write_page(
    plan: Plan, results: dict[str, Any], means: Means, differences: Means, pictures: dict[str, str]
) -> str:
    machine, steps = results['machine'], sorted({fit.steps for fit in plan.fits})
    seeds = ', '.join(map(str, plan.seeds))
    lines = [
        '# Leaderboard',
        f'{len(plan.prompts)} prompts, seeds {seeds}, {" or ".join(map(str, steps))} steps a fit: '
        f'{len(results["objects"])} objects measured, {len(results["failed"])} failed. '
        f'In brackets, where the mean lies in 95 % of {plan.bootstrap} draws of objects and seeds (bootstrap). '
        f'Ranked by {COLUMNS[RANKED_BY].title}.',
        write_table(means).rstrip(),
        '## Where the order is not certain',
        *_write_overlaps(results['overlaps'], means),
        *_write_differences(results['differences']['against'], differences),
        '## Recipes',
        '\n'.join(f'- `{row}`: {" ".join(f"`{one}`" for one in plan.rows[row]) or "the defaults"}' for row in means),
        '## Pictures',
        'Seed '
        + str(plan.seeds[0])
        + ': the true scene, then each row; from in front on the right, and from behind above.',
        *(f'![{text}]({path})' for path, text in pictures.items()),
        '## Made by',
        ', '.join(f'{key} {value}' for key, value in machine.items()) + '.',
    ]
    if results['failed']:
        names = (f'- {one["row"]}, seed {one["seed"]}, {one["prompt"]}: {one["reason"]}' for one in results['failed'])
        lines += ['## Failed', '\n'.join(names)]
    return '\n\n'.join(lines) + '\n'


def _write_overlaps(overlaps: dict[str, list[list[str]]], means: Means) -> list[str]:
    if len(means) < 2:
        return ['There is one row only.']
    lines = []
    for key, pairs in overlaps.items():
        names = ', '.join(f'{a} and {b}' for a, b in pairs) or 'no two rows'
        lines.append(f'- {COLUMNS[key].title}: the intervals of {names} overlap.')
    return ['\n'.join(lines)]


def _write_differences(first: str, differences: Means) -> list[str]:
    if not differences:
        return []
    remark = 'The row minus that one, where both have the prompt and seed. Bold: the interval is all on one side of 0.'
    return [f'## Against `{first}`, object by object', remark, _write_rows(differences, _write_difference)]


def _write_difference(key: str, one: Interval | None) -> str:
    if one is None:
        return ''
    mean, low, high = (f'{value:+.{COLUMNS[key].digits}f}' for value in (one.mean, one.low, one.high))
    return f'{f"**{mean}**" if one.low * one.high > 0 else mean} [{low}, {high}]'
