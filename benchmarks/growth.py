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

"""How the cost of a run grows with its sizes: CPU seconds against samples, levels, pixels, steps, prompts and processes.

    python benchmarks/growth.py                            # everything, into benchmarks/results; some minutes of one core
    python benchmarks/growth.py only=levels,steps out=here # a part of it, into another folder
    python benchmarks/growth.py redraw=true                # the table and the picture again, from the numbers of before

One thread measures everything, and CPU time is counted, which other work on the machine disturbs least. The exponent p of
cost ~ work^p is the slope of a straight line through the logarithms. 1: the cost grows as the work does. What a command or a
step takes however small its work is makes p smaller, so that of the last two points is named beside it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import growth_picture
import torch
from scaling import measure_processes
from scene import NO_FILES, Step

from nemo_dreamfusion.launch.key_values import read_dataclass

RESULTS = Path(__file__).resolve().parent / 'results'
PROMPTS = ('a hamburger', 'a snowman', 'a red cube', 'a green cylinder')
STEPS_BEFORE = 20  # of a scene: the occupancy grid and the sizes of its arrays have settled
CPU = torch.device('cpu')


@dataclass(frozen=True)
class Curve:
    """Costs of one size. ``work`` rises."""

    name: str
    unit: str  # of the work
    of: str  # what is timed
    work: tuple[float, ...]
    seconds: tuple[float, ...]  # of CPU time

    @property
    def exponent(self) -> float:
        """Return p of cost ~ work^p, by least squares of the logarithms."""
        x, y = [math.log(value) for value in self.work], [math.log(value) for value in self.seconds]
        return statistics.linear_regression(x, y).slope

    @property
    def last_exponent(self) -> float:
        """Return p between the last two points."""
        return math.log(self.seconds[-1] / self.seconds[-2]) / math.log(self.work[-1] / self.work[-2])


def measure_steps_of_a_scene(
    settings: Sequence[tuple[int, tuple[str, ...]]], repeats: int
) -> tuple[list[float], list[float]]:
    """Return the samples of a step without guidance, and its CPU seconds, for each side in pixels with its overrides.

    The scenes take turns.
    """
    steps = [Step(CPU, shading='albedo', side=side, overrides=overrides) for side, overrides in settings]
    for step in steps:
        for _ in range(STEPS_BEFORE):
            step()
    times: list[list[float]] = [[] for _ in steps]
    samples: list[list[int]] = [[] for _ in steps]
    for _ in range(repeats):
        for i, step in enumerate(steps):
            began = time.process_time()
            step()
            times[i].append(time.process_time() - began)
            samples[i].append(step.samples)
    return [statistics.mean(one) for one in samples], [statistics.median(one) for one in times]


def samples(repeats: int) -> Curve:
    """Measure a step against the samples along its rays."""
    counts = (40, 80, 160, 320, 640)
    settings = [(64, (f'model.renderer.max_steps={count}',)) for count in counts]
    found, seconds = measure_steps_of_a_scene(settings, repeats)
    return Curve('samples', 'samples', 'a step of 64 x 64 pixels, without guidance', tuple(found), tuple(seconds))


def levels(repeats: int) -> Curve:
    """Measure a step against the levels of the hash grid."""
    counts = (2, 4, 8, 16)
    settings = [(64, (f'model.nerf.encoder_cfg.num_levels={count}',)) for count in counts]
    _, seconds = measure_steps_of_a_scene(settings, repeats)
    return Curve('levels', 'levels of the hash grid', 'a step of 64 x 64 pixels', counts, tuple(seconds))


def resolution(repeats: int) -> Curve:
    """Measure a step against the pixels of its picture."""
    sides = (32, 64, 128, 256)
    _, seconds = measure_steps_of_a_scene([(side, ()) for side in sides], max(2, repeats // 2))
    return Curve('resolution', 'pixels', 'a step, without guidance', tuple(s * s for s in sides), tuple(seconds))


def time_fit(prompts: Sequence[str], steps: int) -> float:
    """Return the CPU seconds of fits of so many steps, one after the other, from the configuration to the report."""
    from nemo_dreamfusion.launch import fit, load_config

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        for prompt in prompts:
            overrides = [f'model.prompt={prompt}', f'trainer.max_steps={steps}', f'exp_manager.exp_dir={folder}']
            fit(load_config(overrides=[*overrides, *NO_FILES, 'log_level=error']))
    return time.process_time() - began


def steps(repeats: int) -> Curve:
    """Measure a whole fit against its steps."""
    counts = (20, 40, 80, 160)
    time_fit(PROMPTS[:1], 2)  # what is imported and read for the first time
    seconds = tuple(time_fit(PROMPTS[:1], count) for count in counts)
    return Curve('steps', 'steps', 'a fit with its start, without pictures', counts, seconds)


def prompts(repeats: int) -> Curve:
    """Measure fits of some prompts in one process."""
    counts = (1, 2, 4)
    time_fit(PROMPTS[:1], 2)
    seconds = tuple(time_fit(PROMPTS[:count], 10) for count in counts)
    return Curve('prompts', 'prompts', 'fits of ten steps in one process, without pictures', counts, seconds)


def processes(repeats: int) -> Curve:
    """Measure a step of all processes together, each of which renders an image of its own."""
    counts = (1, 2, 4)
    seconds = tuple(sum(measure_processes(count, 4 * repeats).cpu_seconds) for count in counts)
    return Curve('processes', 'processes', 'a step of all, an image each', counts, seconds)


CURVES: dict[str, Callable[[int], Curve]] = {
    one.__name__: one for one in (samples, levels, resolution, steps, prompts, processes)
}


@dataclass
class Settings:
    """What the command line may say."""

    only: str = ','.join(CURVES)  # curves, with commas between them
    repeats: int = 7  # of a step
    out: str = str(RESULTS)
    redraw: bool = False  # write table and picture of the .json that is there


def table(curves: Sequence[Curve]) -> str:
    """Return the curves as a Markdown table."""
    lines = ['| cost of | against | work | CPU seconds | exponent | of the last two |', '|---|---|---|---|---:|---:|']
    for curve in curves:
        work = ', '.join(f'{value:,.0f}' for value in curve.work)
        seconds = ', '.join(f'{value:.3g}' for value in curve.seconds)
        exponents = f'{curve.exponent:.2f} | {curve.last_exponent:.2f}'
        lines.append(f'| {curve.of} | {curve.unit} | {work} | {seconds} | {exponents} |')
    return '\n'.join(lines)


def write(curves: Sequence[Curve], folder: Path, machine: str) -> None:
    """Write growth.json, .md and .svg."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {'machine': machine, 'curves': [vars(curve) for curve in curves]}
    (folder / 'growth.json').write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
    text = (
        f'# How the cost grows\n\n{machine}, one thread. `python benchmarks/growth.py`.\n\n![growth](growth.svg)\n\n'
    )
    (folder / 'growth.md').write_text(text + table(curves) + '\n', encoding='utf-8')
    panels = [
        growth_picture.Panel(curve.of, curve.unit, curve.work, curve.seconds, curve.exponent, curve.last_exponent)
        for curve in curves
    ]
    (folder / 'growth.svg').write_text(growth_picture.picture(panels), encoding='utf-8')


def read(path: Path) -> tuple[list[Curve], str]:
    """Read what :func:`write` wrote as .json."""
    record = json.loads(path.read_text(encoding='utf-8'))
    made = [
        Curve(**{**curve, 'work': tuple(curve['work']), 'seconds': tuple(curve['seconds'])})
        for curve in record['curves']
    ]
    return made, record['machine']


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for, and write it."""
    from nemo_dreamfusion.launch.logging import configure_logging

    settings = read_dataclass(arguments, Settings)
    if settings.redraw:
        curves, machine = read(Path(settings.out) / 'growth.json')
    else:
        torch.set_num_threads(1)
        configure_logging('error')
        curves = []
        for name in settings.only.split(','):
            curves.append(CURVES[name](settings.repeats))
            print(table(curves[-1:]).splitlines()[-1], flush=True)
        machine = describe_machine()
    write(curves, Path(settings.out), machine)
    print(table(curves))


def describe_machine() -> str:
    """Return the processor and what else it did."""
    from run import processor_name

    info = Path('/proc/cpuinfo')
    name = processor_name(info.read_text(encoding='utf-8') if info.exists() else '')
    return f'{name}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}'


if __name__ == '__main__':
    main(sys.argv[1:])
