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

"""The main job of two checkouts, step by step in turns: how much faster, and is it the same fit?

    python benchmarks/compare_commits.py 5cd3524                       # that commit against this checkout
    python benchmarks/compare_commits.py ../before ../after --steps 500 --threads 2
    python benchmarks/compare_commits.py 5cd3524 --out somewhere       # also as a table, somewhere.md and .json

A commit is checked out into a temporary folder and its C++ library built there; a folder is taken as it is. Each side runs
a fit of its own (nemo_dreamfusion.launch.fit of dreamfusion.yaml, without pictures and mesh) in a process of its own, which
waits while the other makes its step: both see the same machine. Ratios are of medians, of the clock and of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
QUIET = ('mesh_resolution=0', 'pictures=[]', 'preview_interval=0', 'exp_manager.create_tensorboard_logger=false')


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        roots = [_checkout(given, Path(folder)) for given in (options.before, options.after)]
        sides = [Side(root, Path(folder) / f'run_{i}', options) for i, root in enumerate(roots)]
        for step in range(options.steps):
            for side in sides if step % 2 else sides[::-1]:
                side.step()
        for side in sides:
            side.process.wait()
    found = summary(*(side.rows for side in sides), threads=options.threads)
    print(table(found))
    if options.out:
        Path(f'{options.out}.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
        Path(f'{options.out}.md').write_text(table(found), encoding='utf-8')


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('before', help='a commit, or the folder of a checkout')
    parser.add_argument('after', nargs='?', default=str(HERE.parents[1]), help='the same; default: this checkout')
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--prompt', default='a hamburger')
    parser.add_argument('--set', nargs='*', default=[], dest='overrides', help='further settings of both')
    parser.add_argument('--out', help='path of the results, without a suffix')
    return parser.parse_args()


def _checkout(given: str, folder: Path) -> Path:
    """Return the folder of a checkout, made of a commit where none is given."""
    if Path(given, 'nemo_dreamfusion').is_dir():
        return Path(given).resolve()
    root = folder / 'checkout'
    archive = subprocess.run(['git', 'archive', given], cwd=HERE.parent.parent, check=True, stdout=subprocess.PIPE)
    root.mkdir()
    subprocess.run(['tar', '-x'], input=archive.stdout, cwd=root, check=True)
    build = [sys.executable, 'setup.py', '-q', 'build_ext', '--inplace']
    subprocess.run(build, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return root


class Side:
    """A fit in a process of its own that makes a step when asked to."""

    def __init__(self, root: Path, run: Path, options: argparse.Namespace) -> None:
        variables = os.environ | {'PYTHONPATH': str(root), 'OMP_NUM_THREADS': str(options.threads)}
        settings = [
            f'model.prompt={options.prompt}',
            f'trainer.max_steps={options.steps}',
            f'exp_manager.exp_dir={run}',
            *QUIET,
            *options.overrides,
        ]
        code = f'import runpy; runpy.run_path({str(HERE)!r})["work"]({settings!r})'
        self.rows: list[dict] = []
        self.process = subprocess.Popen(
            [sys.executable, '-c', code],
            cwd=root,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding='utf-8',
        )

    def step(self) -> None:
        """Let it make one step."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f'The fit of {self.process.args[-1]} ended: run it alone to see why.')
        self.rows.append(json.loads(line))


def work(settings: list[str]) -> None:
    """Run a fit that waits for a line of stdin before each step and writes a line about it: times, loss, phase."""
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    import lightning.pytorch as pl

    from nemo_dreamfusion.launch import load_config
    from nemo_dreamfusion.launch.fitting import fit

    class Turns(pl.Callback):
        def on_train_batch_start(self, trainer, model, batch, index):
            self.phase = (
                'latent' if model.global_step < model.options['latent_iter_ratio'] * trainer.max_steps else 'image'
            )
            sys.stdin.readline()
            self.started = time.perf_counter(), time.process_time()

        def on_train_batch_end(self, trainer, model, outputs, batch, index):
            wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
            loss = float(trainer.callback_metrics['loss'])
            print(json.dumps({'wall': wall, 'cpu': cpu, 'loss': loss, 'phase': self.phase}), file=answers, flush=True)

    fit(load_config(overrides=settings), callbacks=[Turns()])


def summary(before: list[dict], after: list[dict], *, threads: int) -> dict:
    """Return medians, ratios and the largest relative difference of the losses, by phase."""
    phases = {}
    for phase in ('latent', 'image'):
        pairs = [(b, a) for b, a in zip(before, after, strict=True) if b['phase'] == phase]
        pairs = pairs[3:]  # the first ones warm up
        if not pairs:
            continue
        times = {
            f'{kind}_{name}_ms': 1000 * statistics.median(pair[i][kind] for pair in pairs)
            for kind in ('wall', 'cpu')
            for i, name in enumerate(('before', 'after'))
        }
        ratios = {f'{kind}_ratio': times[f'{kind}_before_ms'] / times[f'{kind}_after_ms'] for kind in ('wall', 'cpu')}
        phases[phase] = times | ratios | {'steps': len(pairs)}
    losses = [(b['loss'], a['loss']) for b, a in zip(before, after, strict=True)]
    apart = [abs(b - a) / max(abs(b), 1e-12) for b, a in losses]
    equal = next((i for i, (b, a) in enumerate(losses) if b != a), len(losses))
    within = next((i for i, difference in enumerate(apart) if difference > 1e-4), len(losses))
    return {
        'threads': threads,
        'phases': phases,
        'equal_bits_until_step': equal,
        'within_1e-4_until_step': within,
        'median_difference': statistics.median(apart),
        'largest_difference': max(apart),
        'losses': losses,
    }


def table(found: dict) -> str:
    """Return the summary as Markdown."""
    lines = [
        '| phase | before, ms | after, ms | times faster | processor time, times less | steps |',
        '|' + '---|' * 6,
    ]
    for phase, row in found['phases'].items():
        wall = f'{row["wall_before_ms"]:.1f} | {row["wall_after_ms"]:.1f} | {row["wall_ratio"]:.2f}'
        lines.append(f'| {phase} | {wall} | {row["cpu_ratio"]:.2f} | {row["steps"]} |')
    lines += [
        '',
        f'Threads: {found["threads"]}. Losses: the same bits for {found["equal_bits_until_step"]} steps, within 1e-4 for '
        f'{found["within_1e-4_until_step"]}, relative difference {found["median_difference"]:.1e} in the median and '
        f'{found["largest_difference"]:.1e} at most.',
        '',
    ]
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
