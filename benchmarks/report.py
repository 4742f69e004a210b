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

"""What a benchmark leaves: <machine>.json, .md and .svg."""

from __future__ import annotations

import json
import re
from pathlib import Path

import profile_step


def write(report: dict, folder: Path) -> None:
    """Writes ``report`` (of run.py), under a name made of the machine's."""
    machine = report['machine']
    cores = '' if machine['instruction_set'] is None else f'-{machine["cores"]}-cores-{machine["instruction_set"]}'
    stem = file_stem(f'{machine["device"]}{cores}')
    folder.mkdir(parents=True, exist_ok=True)
    files = {'.json': json.dumps(report, indent=2) + '\n', '.md': markdown(report, stem)}
    if 'step_shares_ms' in report:
        title = f'Training steps of dreamfusion.yaml, {machine["device"]}, {machine["threads"]} threads'
        files['.svg'] = profile_step.picture(report['step_shares_ms'], title)
    for suffix, text in files.items():
        (folder / f'{stem}{suffix}').write_text(text, encoding='utf-8')
    print(f'written: {folder / stem}{", ".join(files)}')


def file_stem(name: str) -> str:
    """A machine's name as that of a file."""
    return re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')


def markdown(report: dict, stem: str) -> str:
    """The report for people; ``stem`` names the picture beside it."""
    lines = [*_machine(report), *_rows(report['rows']), *_skipped(report['skipped'])]
    if 'step_shares_ms' in report:
        lines += [*_shares(report['step_shares_ms'], stem), *_growth(report), *_memory(report['peak_memory_mib'])]
    return '\n'.join(lines) + '\n'


def _machine(report: dict) -> list[str]:
    machine, repeats = report['machine'], max((row['repeats'] for row in report['rows']), default=0)
    return [
        f'# {machine["device"]}',
        '',
        f'{machine["cores"]} cores, {machine["threads"]} threads, load {machine["load_before"]:.1f} before it, '
        f'{machine["instruction_set"] or "CUDA"}, torch {machine["torch"]}. Medians of {repeats} turns in one '
        'process (a way runs twice in its turn, and the second time counts), after an equality check: every output and '
        'gradient within 1e-4 of its largest element, exceptions with their reasons in benchmarks/. Only ratios carry over '
        'to other machines.',
        '',
    ]


def _rows(rows: list[dict]) -> list[str]:
    lines = [
        '| operation | setting | ours [ms] | other | [ms] | ratio | ratio of processor time | largest difference |',
        '|---|---|---:|---|---:|---:|---:|---|',
    ]
    for r in rows:
        worst = max(r['differences'].items(), key=lambda item: item[1], default=None)
        apart = 'not compared: time only' if worst is None else f'{worst[1]:.1e} ({worst[0]})'
        lines.append(
            f'| {r["name"]} | {r["setting"]} | {r["ours_s"] * 1e3:.1f} | {r["other"]} | {r["other_s"] * 1e3:.1f} '
            f'| **{r["ratio"]:.1f}** | {r["cpu_ratio"]:.1f} | {apart} |'
        )
    return lines


def _skipped(skipped: list[dict]) -> list[str]:
    if not skipped:
        return []
    return ['', 'Not run here:', '', *(f'- {s["name"]} by {s["other"]}: {s["reason"]}' for s in skipped)]


def _shares(steps: dict[str, dict[str, float]], stem: str) -> list[str]:
    names = list(steps)
    lines = ['', '## Where a training step goes', '', f'![shares]({stem}.svg)', '']
    lines += [f'| part [ms] | {" | ".join(names)} |', f'|---|{"---:|" * len(names)}']
    for part in profile_step.PARTS:
        lines.append(f'| {part} | {" | ".join(f"{steps[name][part]:.1f}" for name in names)} |')
    lines.append(f'| all | {" | ".join(f"{sum(steps[name].values()):.1f}" for name in names)} |')
    return lines


def _growth(report: dict) -> list[str]:
    return [
        '',
        f'{report["samples_per_second"] / 1e3:.0f} thousand samples per second in the step without guidance. How it grows:',
        '',
        '| step | ms | samples |',
        '|---|---:|---:|',
        *(f'| {g["step"]} | {g["seconds"] * 1e3:.1f} | {g["samples"]} |' for g in report['growth']),
    ]


def _memory(peaks: dict[str, dict[str, float]]) -> list[str]:
    moments = list(next(iter(peaks.values())))
    return [
        '',
        '## Peak memory of a process, MiB',
        '',
        f'| field and render | {" | ".join(moments)} |',
        f'|---|{"---:|" * len(moments)}',
        *(f'| {field} | {" | ".join(f"{value:.0f}" for value in of.values())} |' for field, of in peaks.items()),
    ]
