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


"""Scores objects of the pocket world against their true shapes: IoU, PSNR, retrieval, view accuracy.

    python examples/evaluate.py prompts_file=examples/prompts.txt out=eval.json
    python examples/evaluate.py nemo_files=[a.nemo,b.nemo] out=eval.json

The JSON holds {"objects": [{"prompt", "iou", "psnr_db", "retrieval_rank", "view_accuracy", "fit_seconds", "steps"}, ...],
"mean": {...}, "failed": [...]}, the last being the prompts and files that could not be made or scored.
"""

# ruff: noqa: E402
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

logging.getLogger('nv_one_logger').setLevel(logging.ERROR)  # telemetry that is off, and says so while it is imported

import torch
from nemo.core.config import hydra_runner
from omegaconf import DictConfig
from tqdm import tqdm

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.launch.logging import configure_logging
from nemo_dreamfusion.launch.prompts_file import quoted, read_prompts
from nemo_dreamfusion.launch.run_folder import run_name
from nemo_dreamfusion.launch.validate_config import plain_override_errors
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.parts.checks import check_range
from nemo_dreamfusion.parts.files import check_writable, write_atomically
from nemo_dreamfusion.parts.types import PromptSet
from nemo_dreamfusion.pocket.metrics import DISTANCE, FOV_Y_DEG, VIEWS_DEG, score
from nemo_dreamfusion.pocket.world.prompts import SUITE, build_scene

METRICS = ('iou', 'psnr_db', 'retrieval_rank', 'view_accuracy', 'fit_seconds', 'steps')


def check(cfg: DictConfig) -> None:
    """Everything that can be known to be wrong before any work."""
    check_range('workers', cfg.workers, 1, 64, integer=True)
    check_range('resolution', cfg.resolution, 8, 1024, integer=True)
    if bool(cfg.nemo_files) == bool(cfg.prompts_file):
        raise ValueError('Give either nemo_files=[a.nemo,b.nemo] or prompts_file=<file>, and not both.')
    for path in cfg.nemo_files:
        if not Path(path).exists():
            raise ValueError(f'nemo_files names {path!r}, which does not exist: give the paths of .nemo files.')
        check_archive(path)
    check_writable(Path(cfg.out).resolve().parent, 'out')


def fit_command(prompt: str, cfg: DictConfig) -> list[str]:
    """The main job for one prompt."""
    main_job = [sys.executable, str(Path(__file__).with_name('dreamfusion.py')), '--config-name', 'dreamfusion']
    return [*main_job, f'model.prompt={quoted(prompt)}', f'exp_manager.exp_dir={quoted(cfg.exp_dir)}', *cfg.overrides]


def train(prompt: str, cfg: DictConfig) -> Path | None:
    """Runs the main job for one prompt in its own process; the finished archive, or None when it failed."""
    folder = Path(cfg.exp_dir).resolve() / run_name(prompt, {'negative': '', **PromptSet(prompt).by_view()})
    command = fit_command(prompt, cfg)
    threads = str(max(1, (os.cpu_count() or 1) // cfg.workers))
    log = Path(cfg.exp_dir) / f'{folder.name}.log'
    with log.open('w') as stream:
        done = subprocess.run(command, stdout=stream, stderr=stream, env={**os.environ, 'OMP_NUM_THREADS': threads})
    if done.returncode == 0:
        return folder / 'DreamFusion.nemo'
    print(f'error: {prompt!r} failed with exit code {done.returncode}: see {log}', file=sys.stderr)
    return None


def train_all(cfg: DictConfig) -> tuple[list[Path], list[str]]:
    """Trains every line of the prompts file; the finished archives, and the prompts that failed."""
    prompts = read_prompts(cfg.prompts_file)
    for prompt in prompts:
        build_scene(prompt)  # refuses what the pocket world does not know before any work
    check_writable(Path(cfg.exp_dir), 'exp_dir')
    with ThreadPoolExecutor(cfg.workers) as pool:
        found = list(tqdm(pool.map(lambda prompt: train(prompt, cfg), prompts), total=len(prompts), desc='objects'))
    failed = [prompt for prompt, path in zip(prompts, found) if path is None]
    return [path for path in found if path is not None], failed


def score_file(path: Path, resolution: int) -> dict:
    """The metrics of one finished object."""
    model = DreamFusion.restore_from(str(path), map_location='cpu')
    azimuth_deg, elevation_deg = torch.tensor(VIEWS_DEG, dtype=torch.float32).T
    same = torch.ones(len(azimuth_deg))
    cameras = cameras_from_orbit(azimuth_deg, elevation_deg, same * DISTANCE, same * FOV_Y_DEG, resolution, resolution)
    render = model.render_cameras(cameras)
    measured = score(render.image, render.opacity[..., 0], model.prompts.prompt, SUITE)
    record = path.with_name('metrics.json')
    run = json.loads(record.read_text()) if record.exists() else {}
    return {
        'prompt': model.prompts.prompt,
        **measured,
        'fit_seconds': run.get('fit_seconds'),
        'steps': run.get('steps'),
    }


def score_all(paths: list[Path], resolution: int) -> tuple[list[dict], list[str]]:
    """The metrics of each object, and the files that could not be scored: one of them does not take the others with it."""
    rows, failed = [], []
    for path in paths:
        try:
            rows.append(score_file(path, resolution))
        except (ValueError, OSError) as error:
            failed.append(str(path))
            print(f'error: {path} was not scored: {error}', file=sys.stderr)
    return rows, failed


def table(rows: list[dict], mean: dict) -> str:
    """The objects and their mean as a Markdown table."""

    def cell(value: object) -> str:
        return '' if value is None else f'{value:.3f}' if isinstance(value, float) else str(value)

    lines = ['| prompt | ' + ' | '.join(METRICS) + ' |', '|---' * (len(METRICS) + 1) + '|']
    for row in [*rows, {'prompt': 'mean', **mean}]:
        lines.append(f'| {row["prompt"]} | ' + ' | '.join(cell(row.get(name)) for name in METRICS) + ' |')
    return '\n'.join(lines)


def means(rows: list[dict]) -> dict:
    """The mean of each metric over the objects that have it."""
    found = {name: [row[name] for row in rows if row.get(name) is not None] for name in METRICS}
    return {name: sum(values) / len(values) if values else None for name, values in found.items()}


def report(rows: list[dict], failed: list[str], out: Path) -> None:
    """Prints the table and writes the JSON."""
    mean = means(rows)
    print(table(rows, mean))
    write_atomically(out, json.dumps({'objects': rows, 'mean': mean, 'failed': failed}, indent=2) + '\n')


@hydra_runner(config_path='../nemo_dreamfusion/conf', config_name='evaluate')
def main(cfg: DictConfig) -> None:
    """Trains if asked to, scores, prints the table and writes the JSON."""
    try:
        configure_logging('warning')
        check(cfg)
        files, failed = train_all(cfg) if cfg.prompts_file else ([Path(p) for p in cfg.nemo_files], [])
        rows, unscored = score_all(files, cfg.resolution)
        report(rows, [*failed, *unscored], Path(cfg.out))
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if failed or unscored else 0)


if __name__ == '__main__':
    with plain_override_errors():
        main()
