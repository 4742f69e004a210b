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

"""Run a benchmark: make what is missing, measure it, write the report."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from nemo_dreamfusion.launch.benchmarking.first_meshes import write_first_mesh
from nemo_dreamfusion.launch.benchmarking.plan import Fit, Plan, read_plan, save_settings
from nemo_dreamfusion.launch.benchmarking.report import write_report
from nemo_dreamfusion.launch.benchmarking.scoring import measure, read_scores
from nemo_dreamfusion.launch.paths import expand_config
from nemo_dreamfusion.launch.run_folder import ARCHIVE, is_finished


def bench(cfg: DictConfig) -> dict[str, Any]:
    """Fit every prompt of a suite by every chosen row from every seed, measure the objects, and write the report.

        bench(load_config('bench', ['suite=suite12', 'only=[sds,csd]', 'out=results/bench']))

    What is finished in ``cfg.out`` is neither fitted nor measured again, so that a benchmark that was stopped goes on with
    the same call. Each fit is a process of its own, ``cfg.workers`` at a time, whose output is in a log beside its folder.

    Args:
        cfg: ``nemo_dreamfusion/conf/bench.yaml``.

    Returns:
        What results.json holds: settings, machine, rows (means with intervals), overlaps, objects, failed.

    Raises:
        ValueError: for settings that cannot work, or that differ from those the folder was begun with, before any work.
        OSError: when a file cannot be written.
    """
    cfg = cfg.copy()
    expand_config(cfg)
    plan = read_plan(cfg)
    save_settings(plan)
    made: dict[Fit, dict[str, Any]] = {}
    failed: dict[Fit, str] = {}
    chosen = [fit for fit in plan.fits if fit.row in plan.chosen]
    _make_all([fit for fit in chosen if not fit.after], plan, made, failed)
    _make_all([fit for fit in chosen if fit.after], plan, made, failed)
    for fit in plan.fits:  # rows of earlier calls
        if fit.row not in plan.chosen and (scores := read_scores(fit, plan.scoring)):
            made[fit] = scores
    objects = [{**_name(fit), **made[fit]} for fit in plan.fits if fit in made]
    return write_report(plan, objects, [{**_name(fit), 'reason': failed[fit]} for fit in plan.fits if fit in failed])


def _make_all(fits: Sequence[Fit], plan: Plan, made: dict[Fit, dict[str, Any]], failed: dict[Fit, str]) -> None:
    """Make and measure the fits; ``made`` and ``failed`` are filled."""
    pool = ThreadPoolExecutor(plan.workers)
    one_at_a_time = Lock()
    try:
        waiting = {pool.submit(_make, fit, plan, one_at_a_time): fit for fit in fits}
        for done in tqdm(as_completed(waiting), total=len(waiting), desc='objects'):
            result = done.result()
            if isinstance(result, str):
                failed[waiting[done]] = result
            else:
                made[waiting[done]] = result
    finally:
        pool.shutdown(cancel_futures=True)


def _make(fit: Fit, plan: Plan, one_at_a_time: Lock) -> dict[str, Any] | str:
    """Fit and measure an object, unless that is done; return its scores, or why there are none.

    A worker measures what it has fitted before it goes on: beside a fit, the measurement would lengthen its time.
    """
    if (reason := fit_object(fit, plan.workers)) is not None:
        return reason
    try:
        with one_at_a_time:
            return read_scores(fit, plan.scoring) or measure(fit, fit.folder / ARCHIVE, plan.scoring)
    except (ValueError, OSError) as error:
        return f'was not measured: {error}'


def fit_object(fit: Fit, workers: int) -> str | None:
    """Fit in a process of its own, unless that is done; return why it failed, or None."""
    if is_finished(fit.folder, fit.steps):
        return None
    if fit.mesh:
        write_first_mesh(fit.mesh, fit.prompt, fit.mesh_path)
    threads = os.environ.get('OMP_NUM_THREADS') or str(max(1, (os.cpu_count() or 1) // workers))
    log = Path(f'{fit.folder}.log')
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w', encoding='utf-8') as stream:
        environment = {**os.environ, 'OMP_NUM_THREADS': threads}
        done = subprocess.run(fit.command, stdout=stream, stderr=stream, env=environment)
    return None if done.returncode == 0 else f'failed with exit code {done.returncode}: see {log}'


def _name(fit: Fit) -> dict[str, Any]:
    return {'row': fit.row, 'seed': fit.seed, 'prompt': fit.prompt}
