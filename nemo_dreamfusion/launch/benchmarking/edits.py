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

"""Measure edits with known truth: fit each source once, edit it, compare with the true scenes before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nemo_dreamfusion.launch.benchmarking.edit_report import write_edit_report
from nemo_dreamfusion.launch.benchmarking.edit_suite import EDITS, EditCase, render_true_scenes
from nemo_dreamfusion.launch.benchmarking.plan import QUIET, SETTINGS, Fit, activate_plugins, check_settings, read_rows
from nemo_dreamfusion.launch.benchmarking.running import fit_object
from nemo_dreamfusion.launch.benchmarking.scoring import save_picture
from nemo_dreamfusion.launch.configuration import load_config, prepare_config
from nemo_dreamfusion.launch.paths import expand_config
from nemo_dreamfusion.launch.prompts_file import quoted
from nemo_dreamfusion.launch.run_folder import ARCHIVE, run_name
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.checks import check_range
from nemo_dreamfusion.parts.files import check_writable, write_atomically
from nemo_dreamfusion.pocket.metrics import render_object
from nemo_dreamfusion.pocket.metrics.edits import EditViews, score_edit

RECIPE = 'dreamfusion-edit'
SCORES = 'edit_scores.json'  # in the folder of an edit


@dataclass(frozen=True)
class EditPlan:
    """A benchmark of edits: of each its number, its case, the fit of its source and, by row, its own."""

    out: Path
    resolution: int  # pixels of the compared views
    edits: tuple[tuple[int, EditCase, Fit, Fit], ...]
    settings: dict[str, Any]


def bench_edits(cfg: DictConfig) -> dict[str, Any]:
    """Fit the sources, edit them by every chosen row, measure, and write the report after each.

        bench_edits(load_config('bench-edits', ['edits=[1,2,3]', 'out=results/bench_edits']))

    What is finished in ``cfg.out`` is neither fitted nor measured again; the report has what earlier calls measured too.

    Args:
        cfg: ``nemo_dreamfusion/conf/bench-edits.yaml``.

    Returns:
        What results.json holds: settings, edits, failed.

    Raises:
        ValueError: for settings that cannot work, or that differ from those the folder was begun with, before any work.
        OSError: when a file cannot be written.
    """
    cfg = cfg.copy()
    expand_config(cfg)
    plan = read_edit_plan(cfg)
    write_atomically(plan.out / SETTINGS, json.dumps(plan.settings, indent=2) + '\n')
    failed: list[dict[str, Any]] = []
    results: dict[str, Any] = {}
    for number, case, source, edit in plan.edits:
        if (reason := _make(case, source, edit, plan.resolution)) is not None:
            failed.append({**_name(number, edit.row), 'reason': reason})
        results = write_edit_report(plan.out, plan.settings, _read_made(plan, failed), failed)
    return results


def _make(case: EditCase, source: Fit, edit: Fit, resolution: int) -> str | None:
    """Fit and measure an edit, unless that is done; return why it failed, or None."""
    if (reason := fit_object(source, 1) or fit_object(edit, 1)) is not None:
        return reason
    try:
        measure_edit(case, source, edit, resolution)
    except (ValueError, OSError) as error:
        return f'was not measured: {error}'
    return None


def _read_made(plan: EditPlan, failed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the edits of all rows of the folder that this call or an earlier one measured."""
    without = {(one['row'], one['edit']) for one in failed}
    made = []
    for row in plan.settings['rows']:
        for number, case in enumerate(EDITS, 1):
            scores = _read_scores(_folder(plan.out, row, number))
            if scores is not None and (row, number) not in without:
                made.append({**_name(number, row), 'keeps_shape': case.keeps_shape, **scores})
    return made


def _name(number: int, row: str) -> dict[str, Any]:
    case = EDITS[number - 1]
    return {'edit': number, 'row': row, 'source': case.source, 'target': case.target}


def _folder(out: Path, row: str, number: int) -> Path:
    return out / row / f'edit-{number:02d}'


def read_edit_plan(cfg: DictConfig) -> EditPlan:
    """Check a configuration as a whole, and plan its fits.

    Raises:
        ValueError: for a setting that cannot work, or that differs from those the folder was begun with.
    """
    activate_plugins(cfg.plugins)
    numbers = [
        check_range('edits', number, 1, len(EDITS), integer=True) for number in cfg.edits or range(1, len(EDITS) + 1)
    ]
    seed = check_range('seed', cfg.seed, 0, 2**31 - 1, integer=True)
    resolution = check_range('resolution', cfg.resolution, 32, 512, integer=True)
    rows, chosen = read_rows(cfg)
    common, of_sources = ([str(one) for one in cfg[key]] for key in ('overrides', 'source_overrides'))
    settings = {'seed': seed, 'overrides': common, 'source_overrides': of_sources, 'resolution': resolution}
    out = Path(cfg.out).resolve()
    earlier = check_settings(out, settings, {name: rows[name] for name in chosen})['rows']
    edits = [
        _plan_edit(out, number, row, seed, rows[row], common, of_sources)
        for row in chosen
        for number in dict.fromkeys(numbers)
    ]
    check_writable(out, 'out')
    known = {**earlier, **{name: rows[name] for name in chosen}}
    return EditPlan(out, resolution, tuple(edits), {**settings, 'rows': known, 'steps': {}})


def _plan_edit(
    out: Path,
    number: int,
    row: str,
    seed: int,
    recipe: Sequence[str],
    common: Sequence[str],
    of_sources: Sequence[str],
) -> tuple[int, EditCase, Fit, Fit]:
    case = EDITS[number - 1]
    folder = out / 'sources' / f'seed-{seed}' / run_name(case.source, {'prompt': case.source})
    source = _plan_fit('source', 'dreamfusion', seed, case.source, folder, of_sources)
    own = [
        *(*common, *recipe, *case.overrides),
        f'model.edit.source_prompt={quoted(case.source)}',
        f'restore_from_path={quoted(str(folder / ARCHIVE))}',
    ]
    return number, case, source, _plan_fit(row, RECIPE, seed, case.target, _folder(out, row, number), own)


def _plan_fit(row: str, config: str, seed: int, prompt: str, folder: Path, more: Sequence[str]) -> Fit:
    """Plan a fit; refuse settings that cannot work."""
    own = [
        f'model.prompt={quoted(prompt)}',
        f'model.seed={seed}',
        f'exp_manager.explicit_log_dir={quoted(str(folder))}',
    ]
    overrides = (*QUIET, *more, *own)
    later = ('restore_from_path=', 'model.edit.source_prompt=')  # the object to edit may not be there yet
    try:
        cfg = prepare_config(load_config(config, [one for one in overrides if not one.startswith(later)]), 'fit')
    except ValueError as error:
        key = f'rows.{row}' if config == RECIPE else 'source_overrides'
        raise ValueError(f'{key} cannot be fitted: {error}') from error
    return Fit(row, seed, prompt, folder, overrides, int(cfg.trainer.max_steps), config)


def measure_edit(case: EditCase, source: Fit, edit: Fit, resolution: int) -> dict[str, Any]:
    """Measure an edit once, and keep its scores and a picture in its folder.

    Raises:
        ValueError: when an archive cannot be restored.
        OSError: when the files cannot be written.
    """
    if (known := _read_scores(edit.folder)) is not None:
        return known
    models = (DreamFusion.restore_from(str(fit.folder / ARCHIVE), map_location='cpu') for fit in (source, edit))
    before, after = (render_object(model, resolution) for model in models)
    views = EditViews(before, after, *render_true_scenes(case, resolution))
    run = json.loads((edit.folder / 'metrics.json').read_text(encoding='utf-8'))
    scores = score_edit(views) | {'fit_seconds': run.get('fit_seconds'), 'steps': run.get('steps')}
    save_picture(edit.folder / 'views.png', before.image, after.image, views.true_after.image)
    write_atomically(edit.folder / SCORES, json.dumps(scores, indent=2) + '\n')
    return scores


def _read_scores(folder: Path) -> dict[str, Any] | None:
    """Return what is measured of an edit; None where there is nothing."""
    try:
        return json.loads((folder / SCORES).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
