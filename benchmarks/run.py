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

"""Ratios against the torch reference and against installed peers, one process, interleaved, after an equality check.

    python benchmarks/run.py                              # everything; some minutes
    python benchmarks/run.py --rows fused_adan --repeats 50
    python benchmarks/run.py --threads 1

Writes benchmarks/results/<machine>.md, .json and .svg. Ratios count; times are of this machine as busy as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import time
from pathlib import Path

import operations
import profile_step
import scene
import torch
from measure import Row, measure

from nemo_dreamfusion.ops import native

CASES = operations.CASES | scene.CASES
HERE = Path(__file__).resolve().parent


def main() -> None:
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    machine = describe_machine(device)
    # The look comes first: the peak of memory is the process's own, and the references need more.
    look = {} if options.no_profile else look_at_step(device, options.repeats)
    rows = []
    for name in options.rows:
        for row in measure(CASES[name](device), options.repeats):
            print(
                f'{row.name:32} {row.ratio:8.1f} x {row.other} ({row.ours_s:.4f} s against {row.other_s:.4f} s)',
                flush=True,
            )
            rows.append(row)
    report = {'machine': machine, 'rows': [row.as_dict() for row in rows]} | look
    write(report, rows, options.out, device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', nargs='+', choices=list(CASES), default=list(CASES))
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--threads', type=int, default=0, help='0: what torch takes')
    parser.add_argument('--no-profile', action='store_true', help='leave out the shares, the memory and the growth')
    parser.add_argument('--out', type=Path, default=HERE / 'results')
    return parser.parse_args()


def describe_machine(device: torch.device) -> dict:
    """What the numbers were taken on (no host name: it says nothing)."""
    processor = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        processor = re.search(r'model name\s*: (.*)', info.read_text()).group(1).strip()
    library = native.library() if device.type == 'cpu' else None
    return {
        'device': torch.cuda.get_device_name() if device.type == 'cuda' else processor,
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'load_before': os.getloadavg()[0],
        'instruction_set': library.instruction_set().decode() if library else None,
        'torch': torch.__version__,
        'python': platform.python_version(),
    }


def look_at_step(device: torch.device, repeats: int) -> dict:
    """Shares, memory, samples per second, and how the step grows with resolution, samples and levels."""
    step = scene.Step(device, shading='lambertian', overrides=('model.loss.lambda_orientation=0.01',))
    memory = {'before': peak_memory_mib(device)}
    seconds = _median_time(step, repeats)
    memory['after 64 x 64 training steps'] = peak_memory_mib(device)
    step.evaluate(512)
    memory['after a 512 x 512 evaluation render'] = peak_memory_mib(device)
    growth = []
    for label, side, overrides in (
        ('32 x 32', 32, ()),
        ('64 x 64', 64, ()),
        ('128 x 128', 128, ()),
        ('64 x 64, twice the steps along a ray', 64, ('model.renderer.max_steps=320',)),
        ('64 x 64, 16 levels instead of 10', 64, ('model.nerf.encoder_cfg.num_levels=16',)),
    ):
        other = scene.Step(device, shading='albedo', side=side, overrides=overrides)
        growth.append({'step': f'albedo, {label}', 'seconds': _median_time(other, 5), 'samples': other.samples})
    return {
        'step_shares_ms': profile_step.shares(step),
        'samples_per_second': step.samples / seconds,
        'peak_memory_mib': memory,
        'growth': growth,
    }


def peak_memory_mib(device: torch.device) -> float:
    """Of this process so far, torch itself included; on CUDA, of the device's tensors."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _median_time(step: scene.Step, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def write(report: dict, rows: list[Row], folder: Path, device: torch.device) -> None:
    machine = report['machine']
    cores = '' if device.type == 'cuda' else f'-{machine["cores"]}-cores-{machine["instruction_set"]}'
    stem = re.sub(r'[^a-z0-9]+', '-', f'{machine["device"]}{cores}'.lower()).strip('-')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{stem}.json').write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
    (folder / f'{stem}.md').write_text(_markdown(report, rows, stem), encoding='utf-8')
    if 'step_shares_ms' in report:
        title = (
            f'One training step without guidance (64 x 64, shaded), {machine["device"]}, {machine["threads"]} threads'
        )
        (folder / f'{stem}.svg').write_text(profile_step.picture(report['step_shares_ms'], title), encoding='utf-8')
    print(f'written: {folder / stem}{".md, .json" + (", .svg" if "step_shares_ms" in report else "")}')


def _markdown(report: dict, rows: list[Row], stem: str) -> str:
    machine = report['machine']
    lines = [
        f'# {machine["device"]}',
        '',
        f'{machine["cores"]} cores, {machine["threads"]} threads, load {machine["load_before"]:.1f} before it, '
        f'{machine["instruction_set"] or "CUDA"}, torch {machine["torch"]}. Medians of {rows[0].repeats if rows else 0} '
        'interleaved runs in one process, after an equality check. Only ratios carry over to other machines.',
        '',
        '| operation | setting | ours [ms] | other | [ms] | ratio | ratio of processor time |',
        '|---|---|---:|---|---:|---:|---:|',
    ]
    for r in rows:
        lines.append(
            f'| {r.name} | {r.setting} | {r.ours_s * 1e3:.1f} | {r.other} | {r.other_s * 1e3:.1f} '
            f'| **{r.ratio:.1f}** | {r.cpu_ratio:.1f} |'
        )
    if 'step_shares_ms' in report:
        lines += ['', '## One training step without guidance', '', f'![shares]({stem}.svg)', '']
        lines += ['| part | ms |', '|---|---:|']
        lines += [f'| {name} | {value:.1f} |' for name, value in report['step_shares_ms'].items()]
        lines += [
            '',
            f'{report["samples_per_second"] / 1e3:.0f} thousand samples per second. Peak memory of the process, MiB: '
            + ', '.join(f'{name} {value:.0f}' for name, value in report['peak_memory_mib'].items())
            + '.',
            '',
            '| step | ms | samples |',
            '|---|---:|---:|',
        ]
        lines += [f'| {g["step"]} | {g["seconds"] * 1e3:.1f} | {g["samples"]} |' for g in report['growth']]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
