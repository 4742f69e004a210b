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

"""Ratios against the torch reference and against installed peers, one process, in turns, after an equality check.

    python benchmarks/run.py                              # everything; some minutes
    python benchmarks/run.py --rows fused_adan --repeats 50
    python benchmarks/run.py --threads 1 --out elsewhere

Everything, on all cores, is written to benchmarks/results/<machine>.md, .json and .svg; a part of it only to what --out
names, so that it never takes the place of a whole result. Ratios count; times are of this machine as busy as it was.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import time
from pathlib import Path

import memory
import meshes
import operations
import profile_step
import report
import scene
import torch
import whole_step
from measure import Skipped, finish, measure

from nemo_dreamfusion.ops.backends.cpu.library import library as load_library

CASES = operations.CASES | meshes.CASES | scene.CASES | whole_step.CASES
RESULTS = Path(__file__).resolve().parent / 'results'
CORES = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
SMALL_FIELD, FULL_FIELD = 'torchngp_small', 'torchngp'  # choices of nemo_dreamfusion/conf/model/nerf


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    found = {'machine': describe_machine(device), 'rows': [], 'skipped': []}
    for name in options.rows:
        torch.manual_seed(0)  # each draws the same whatever ran before it
        case = CASES[name](device)
        for row in measure(case, options.repeats):
            times = f'{row.ours_s:.4f} s against {row.other_s:.4f} s'
            print(f'{row.name:32} {row.ratio:8.1f} x {row.other} ({times})', flush=True)
            found['rows'].append(row.as_dict())
        for other in case.others:
            if isinstance(other, Skipped):
                print(f'{name:32}   no {other.name}: {other.reason}', flush=True)
                found['skipped'].append({'name': name, 'other': other.name, 'reason': other.reason})
    if not options.no_profile:
        found |= look_at_step(device, options.repeats)
    if options.out is None:
        print('Only a part, or not on all cores: nothing is written. Name a folder for it with --out.')
    else:
        report.write(found, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', nargs='+', choices=list(CASES), default=list(CASES))
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--threads', type=int, default=CORES, help='default: a thread for each core')
    parser.add_argument('--no-profile', action='store_true', help='leave out the shares, the memory and the growth')
    parser.add_argument('--out', type=Path, help='a folder; default: benchmarks/results when everything is measured')
    options = parser.parse_args()
    everything = set(options.rows) == set(CASES) and not options.no_profile and options.threads == CORES
    if options.out is None and everything:
        options.out = RESULTS
    return options


def describe_machine(device: torch.device) -> dict:
    """What the numbers were taken on (no host name: it says nothing)."""
    library = load_library() if device.type == 'cpu' else None
    info = Path('/proc/cpuinfo')
    return {
        'device': torch.cuda.get_device_name()
        if device.type == 'cuda'
        else processor_name(info.read_text(encoding='utf-8') if info.exists() else ''),
        'cores': CORES,
        'threads': torch.get_num_threads(),
        'load_before': os.getloadavg()[0],
        'instruction_set': library.instruction_set().decode() if library else None,
        'torch': torch.__version__,
        'python': platform.python_version(),
    }


def processor_name(cpuinfo: str) -> str:
    """The model's name in /proc/cpuinfo; ARM's kernels and other systems write none, then what Python knows."""
    found = re.search(r'model name\s*: (.*\S)', cpuinfo)
    return found[1] if found else platform.processor() or platform.machine() or 'unknown processor'


def look_at_step(device: torch.device, repeats: int) -> dict:
    """Shares, memory, samples per second, and how the step grows with resolution, samples and levels."""
    step = scene.Step(device, shading='lambertian', overrides=scene.WITH_NORMALS)
    seconds = _median_time(step, repeats)
    growth = []
    for label, side, overrides in (
        ('32 x 32', 32, ()),
        ('64 x 64', 64, ()),
        ('128 x 128', 128, ()),
        ('64 x 64, twice the steps along a ray', 64, ('model.renderer.max_steps=320',)),
        ('64 x 64, 16 levels instead of 8', 64, ('model.nerf.encoder_cfg.num_levels=16',)),
    ):
        other = scene.Step(device, shading='albedo', side=side, overrides=overrides)
        growth.append({'step': f'albedo, {label}', 'seconds': _median_time(other, 5), 'samples': other.samples})
    steps = {'shaded, without guidance': step}
    steps |= {f'{phase} phase of the main job': whole_step.WholeStep(device, phase) for phase in whole_step.PHASES}
    return {
        'step_shares_ms': {name: profile_step.shares(one) for name, one in steps.items()},
        'samples_per_second': step.samples / seconds,
        'peak_memory_mib': {
            f'{field}, {side} x {side}': memory.measure(field, side, torch.get_num_threads())
            for field in (SMALL_FIELD, FULL_FIELD)
            for side in (512, 800)
        },
        'growth': growth,
    }


def _median_time(step: scene.Step, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        step()
        finish()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == '__main__':
    main()
