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

"""What a command costs beside its steps: refusals, and a run of one step with all its files, as whole processes.

    python benchmarks/start_and_end.py                                   # this checkout
    python benchmarks/start_and_end.py trees=../before,. repeats=5       # two checkouts, interleaved
    python benchmarks/start_and_end.py cases=key,value out=start.json

Each number is the least of the repeats. On a machine that others use, compare the CPU time, which counts what the process
and its children computed; the wall time counts waiting too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nemo_dreamfusion.launch.key_values import read_dataclass

CASES = {  # name -> arguments of nemo-dreamfusion, and its exit code
    'key': (['trainer.max_step=2'], 2),
    'choice': (['model/nerf=torchngpp'], 2),
    'value': (['model.seed=abc'], 2),
    'part': (['model.nerf.blob_radius=-1'], 2),
    'one_step': (['trainer.max_steps=1'], 0),
}
ABOUT = {
    'key': 'a key that there is not, refused',
    'choice': 'a choice that there is not, refused',
    'value': 'a wrong value, refused',
    'part': "a wrong value of a model's part, refused",
    'one_step': 'a run of one step',
}
FILES = ('config.yaml', 'preview.png', 'turntable.mp4', 'mesh.glb', 'metrics.json', 'DreamFusion.nemo', 'report.html')


@dataclass
class Settings:
    """What the command line may say."""

    trees: str = '.'  # checkouts, with commas between them
    cases: str = ','.join(CASES)
    repeats: int = 3
    out: str = ''  # a .json file


@dataclass
class Measured:
    """One process."""

    tree: str
    case: str
    wall_s: float
    cpu_s: float  # with its children's
    files_s: dict[str, float] = field(default_factory=dict)  # when each file was there, after the start


def run_once(tree: str, case: str) -> Measured:
    """Run a command to its end in an empty folder.

    Raises:
        RuntimeError: when it ends otherwise than it should.
    """
    arguments, code = CASES[case]
    with tempfile.TemporaryDirectory(prefix='start-and-end-') as folder:
        command = [sys.executable, '-m', 'nemo_dreamfusion.launch', *arguments]
        environment = {**os.environ, 'PYTHONPATH': str(Path(tree).resolve())}
        before, began = os.times(), time.time()
        done = subprocess.run(
            [*command, f'exp_manager.exp_dir={folder}'],
            env=environment,
            cwd=folder,
            capture_output=True,
            encoding='utf-8',
        )
        wall, after = time.time() - began, os.times()
        if done.returncode != code:
            raise RuntimeError(f'{case} in {tree} ended with {done.returncode}:\n{done.stdout}{done.stderr}')
        found = {path.name: path.stat().st_mtime - began for path in Path(folder).glob('*/*') if path.name in FILES}
    cpu = sum(getattr(after, name) - getattr(before, name) for name in ('children_user', 'children_system'))
    times = {name: round(found[name], 2) for name in FILES if name in found}
    return Measured(tree, case, round(wall, 2), round(cpu, 2), times)


def least(measured: Sequence[Measured], tree: str, case: str) -> Measured:
    """Return the repeat with the least CPU time, with the least wall time of all."""
    of_case = [one for one in measured if (one.tree, one.case) == (tree, case)]
    best = min(of_case, key=lambda one: one.cpu_s)
    return Measured(tree, case, min(one.wall_s for one in of_case), best.cpu_s, best.files_s)


def table(measured: Sequence[Measured], trees: Sequence[str], cases: Sequence[str]) -> str:
    """Return a Markdown table: a row for each case, and CPU and wall seconds for each checkout."""
    heads = [f'{tree}: {kind}' for tree in trees for kind in ('CPU, s', 'wall, s')]
    lines = ['| command | ' + ' | '.join(heads) + ' |', '|---' * (1 + len(heads)) + '|']
    for case in cases:
        best = [least(measured, tree, case) for tree in trees]
        numbers = [f'{number:.1f}' for one in best for number in (one.cpu_s, one.wall_s)]
        lines.append(f'| {ABOUT[case]} | ' + ' | '.join(numbers) + ' |')
    return '\n'.join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for, and print it."""
    settings = read_dataclass(arguments, Settings)
    trees, cases = settings.trees.split(','), settings.cases.split(',')
    measured = []
    for _ in range(settings.repeats):
        for case in cases:
            for tree in trees:  # interleaved: what else the machine does meets all of them
                measured.append(run_once(tree, case))
                print(asdict(measured[-1]), file=sys.stderr)
    print(table(measured, trees, cases))
    if settings.out:
        Path(settings.out).write_text(json.dumps([asdict(one) for one in measured], indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main(sys.argv[1:])
