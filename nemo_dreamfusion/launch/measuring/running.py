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

"""Run the stages of a metric: each writes a folder that it goes on with, and that several machines may fill."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from nemo_dreamfusion.launch.measuring.manifest import Manifest, Shard, read_manifest, read_record, read_shard
from nemo_dreamfusion.launch.measuring.report import write_report
from nemo_dreamfusion.launch.measuring.runs import (
    Failure,
    FinishedRun,
    check_prompts_file,
    find_archives,
    read_runs,
)
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.metrics.base import Metric
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.checks import check_choice, refuse
from nemo_dreamfusion.parts.files import atomic_folder, check_writable, write_atomically

STAGES = ('render', 'score', 'report')
VIEWS = 'views.json'  # in the folder of an object's pictures


@dataclass(frozen=True)
class MeasuredRuns:
    """What :func:`measure` did."""

    folder: Path
    text: str  # the report's table, or what is still to be done
    report: dict[str, Any] | None  # what report.json holds; None while objects are missing
    failed: tuple[Failure, ...]


@dataclass(frozen=True)
class _Plan:
    metric: Metric
    stages: tuple[str, ...]
    shard: Shard
    out: Path
    runs: tuple[FinishedRun, ...]

    @property
    def rendered(self) -> Path:
        return self.out / 'render'

    @property
    def scored(self) -> Path:
        return self.out / f'score-{self.metric.judge.name}'


def measure(cfg: DictConfig) -> MeasuredRuns:
    """Judge finished runs with the metric of ``cfg.metric``.

    The pictures go to ``out/render``, the scores to ``out/score-<encoder>``, the tables to ``out/report``. What is there is
    not made again, so a call that was stopped goes on, and ``shard`` splits the first two stages over machines.

    Args:
        cfg: ``nemo_dreamfusion/conf/evaluate.yaml`` with a choice of ``conf/metric``.

    Raises:
        ValueError: for settings that cannot work, or other settings than the folder was begun with, before any work.
    """
    plan = _read_plan(cfg)
    failed: list[Failure] = []
    try:
        if 'score' in plan.stages:
            plan.metric.prepare()  # before hours of rendering: a damaged file is found now
        if 'render' in plan.stages:
            _each(plan, 'render', _render, failed)
        if 'score' in plan.stages:
            _each(plan, 'score', _score, failed)
    finally:
        plan.metric.close()
    if 'report' not in plan.stages:
        return MeasuredRuns(plan.out, f'Done: {", ".join(plan.stages)} in {plan.out}', None, tuple(failed))
    missing = [run.name for run in plan.runs if not (plan.scored / f'{run.name}.json').is_file()]
    if missing:
        text = f'{len(plan.runs) - len(missing)} of {len(plan.runs)} objects are scored; the report is written when all are.'
        if plan.stages == ('report',):
            raise ValueError(f'{text} The first that is missing is {missing[0]}: run the stages render and score.')
        return MeasuredRuns(plan.out, text, None, tuple(failed))
    report, text = write_report(plan.metric, plan.out, plan.runs)
    return MeasuredRuns(plan.out, text, report, tuple(failed))


def _read_plan(cfg: DictConfig) -> _Plan:
    stages = _read_stages(cfg.stages)
    shard = read_shard(cfg.shard)
    if Path(cfg.out).suffix == '.json':
        refuse('out', cfg.out, 'a folder', 'Set out=results/evaluation, or another: each stage has its folder in it.')
    out = Path(cfg.out).resolve()
    metric = build('metric', to_plain(cfg)['metric'], Metric)
    archives = find_archives(cfg.runs, cfg.nemo_files)
    runs = tuple(read_runs(archives)) if archives else _runs_of(out, stages)
    if cfg.prompts_file:
        check_prompts_file(cfg.prompts_file, runs)
    metric.check_prompts([run.prompt for run in runs])
    plan = _Plan(metric, stages, shard, out, runs)
    if 'score' in stages:
        metric.judge.check()
    settings = {'metric': metric.name, **metric.render_settings()}
    manifests = [Manifest(plan.rendered / 'manifest.json', settings, runs)]
    if 'score' in stages:
        settings = {'metric': metric.name, **metric.judge.describe(), **metric.score_settings()}
        manifests.append(Manifest(plan.scored / 'manifest.json', settings, runs))
    if 'score' in stages or 'report' in stages:
        _check_judges(plan)
    for manifest in manifests:
        manifest.check(whole=shard.count == 1)
    if 'render' not in stages and 'score' in stages:
        _check_rendered(plan)
    check_writable(out, 'out')
    if stages != ('report',):  # which makes nothing
        for manifest in manifests if archives else manifests[1:]:  # without archives the pictures stay as they are
            manifest.write()
    return plan


def _read_stages(value: Any) -> tuple[str, ...]:
    stages = [check_choice('stages', stage, STAGES) for stage in ([value] if isinstance(value, str) else value)]
    if not stages:
        refuse('stages', [], 'one or more of ' + ', '.join(STAGES), 'Set stages=[render,score,report].')
    return tuple(stage for stage in STAGES if stage in stages)


def _runs_of(out: Path, stages: tuple[str, ...]) -> tuple[FinishedRun, ...]:
    """Return the objects that were rendered, where a call names none."""
    manifest = read_manifest(out / 'render')
    if 'render' in stages or manifest is None:
        raise ValueError('Give the objects to judge: runs=<folder of runs> or nemo_files=[a.nemo,b.nemo].')
    return manifest.runs


def _check_rendered(plan: _Plan) -> None:
    missing = [run.name for run in plan.shard.part(plan.runs) if not (plan.rendered / run.name / VIEWS).is_file()]
    if missing:
        raise ValueError(
            f'{len(missing)} objects, such as {missing[0]}, have no pictures in {plan.rendered}: add render to stages, or '
            'copy what another machine rendered there.'
        )


def _check_judges(plan: _Plan) -> None:
    """Refuse other settings than those by which the encoders of the folder were asked: the report compares them."""
    ours = {'metric': plan.metric.name, **plan.metric.score_settings()}
    for path in plan.out.glob('score-*/manifest.json'):
        other = read_manifest(path.parent)
        if other is not None:
            Manifest(path, {**other.settings, **ours}, other.runs).check(whole=True)


def _each(plan: _Plan, stage: str, work: Any, failed: list[Failure]) -> None:
    """Do a stage's work for each object of this machine; one that fails leaves the others alone."""
    gone = {failure.name for failure in failed}
    for run in tqdm(plan.shard.part(plan.runs), desc=stage, disable=None):
        if run.name in gone:
            continue
        try:
            work(plan, run)
        except (ValueError, OSError) as error:
            failed.append(Failure(run.name, f'stage {stage}: {error}'))


def _render(plan: _Plan, run: FinishedRun) -> None:
    folder = plan.rendered / run.name
    if (folder / VIEWS).is_file():
        return
    model = DreamFusion.restore_from(str(run.archive), map_location='cpu')
    with atomic_folder(folder) as temporary:
        record = plan.metric.render(model, temporary)
        record = {'prompt': run.prompt, 'archive_sha256': run.sha256, **record}
        write_atomically(temporary / VIEWS, json.dumps(record, indent=1, ensure_ascii=False) + '\n')


def _score(plan: _Plan, run: FinishedRun) -> None:
    path = plan.scored / f'{run.name}.json'
    if path.is_file():
        return
    folder = plan.rendered / run.name
    record = read_record(folder / VIEWS)
    if record is None:
        raise ValueError(f'{folder} has no {VIEWS}.')
    judged = plan.metric.score(run.prompt, folder, record)
    scores = {'prompt': run.prompt, 'archive_sha256': run.sha256, **asdict(judged)}
    write_atomically(path, json.dumps(scores, indent=1, ensure_ascii=False) + '\n')
