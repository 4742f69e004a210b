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

"""Score objects of the pocket world against their true shapes: views (IoU, PSNR, retrieval, accuracy) and mesh.

With ``metric=`` runs of any kind are judged by a published model instead: see ``launch.measuring``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig
from tqdm import tqdm

from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.launch.measuring.running import MeasuredRuns, measure
from nemo_dreamfusion.launch.measuring.runs import Failure, find_archives
from nemo_dreamfusion.launch.paths import CONF, expand_config
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.launch.prompts_file import quoted
from nemo_dreamfusion.launch.run_folder import ARCHIVE, locate_folder
from nemo_dreamfusion.launch.surface_scores import score_mesh
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.models.options import read_prompts as read_model_prompts
from nemo_dreamfusion.parts.checks import check_range, refuse
from nemo_dreamfusion.parts.files import check_writable, write_atomically
from nemo_dreamfusion.parts.prompt_list import read_prompts
from nemo_dreamfusion.pocket.metrics import render_object, score
from nemo_dreamfusion.pocket.metrics.retrieval import compute_retrieval_rank
from nemo_dreamfusion.pocket.world.prompts import SUITE, build_scene

METRICS = (
    *('iou', 'psnr_db', 'retrieval_rank', 'view_accuracy', 'fit_seconds', 'steps'),
    *('chamfer', 'f_score_1', 'f_score_2', 'normal_consistency', 'surface_delta_e', 'components', 'watertight'),
)

OF_FITS = ('exp_dir', 'workers', 'overrides', 'resolution')  # settings without effect on a metric, and
OF_METRICS = ('stages', 'shard')  # those without effect on the scores of the pocket world


@dataclass(frozen=True)
class ObjectScore:
    """How near one object is to the true scene of its prompt (nemo_dreamfusion.pocket.metrics), and what it took."""

    prompt: str
    iou: float
    psnr_db: float
    retrieval_rank: int  # among the suite of twelve
    view_accuracy: float | None  # None for objects without a front
    fit_seconds: float | None = None  # None where the archive has no metrics.json beside it
    steps: int | None = None
    # of the mesh (nemo_dreamfusion.launch.surface_scores.score_mesh)
    chamfer: float | None = None
    f_score_1: float | None = None
    f_score_2: float | None = None
    normal_consistency: float | None = None
    surface_delta_e: float | None = None
    components: int | None = None
    watertight: bool | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """What :func:`evaluate` found."""

    objects: tuple[ObjectScore, ...]
    mean: dict[str, float | None]  # of each of METRICS over the objects that have it
    failed: tuple[Failure, ...]


def evaluate(cfg: DictConfig) -> EvaluationResult | MeasuredRuns:
    """Score the objects of ``cfg.nemo_files`` and ``cfg.runs``, or those that it fits for ``cfg.prompts_file``.

        evaluate(load_config('evaluate', ['nemo_files=[a.nemo,b.nemo]', 'out=eval.json'])).mean['iou']
        settings = ['metric=clip_r_precision', 'metric.candidates=captions.txt', 'runs=results', 'out=results/clip']
        evaluate(load_config('evaluate', settings)).report['rows']['b32']['colour']['mean']

    With ``cfg.metric`` the call is :func:`nemo_dreamfusion.launch.measuring.running.measure`.

    Each prompt is fitted by a process of its own, ``cfg.workers`` at a time, so that one that crashes leaves the others
    alone. Writes ``cfg.out``: {"objects": [{"prompt", "iou", ...}, ...], "mean": {...}, "failed": [...]}.

    Args:
        cfg: ``nemo_dreamfusion/conf/evaluate.yaml``.

    Raises:
        ValueError: for settings that cannot work, before any work.
    """
    cfg = cfg.copy()
    expand_config(cfg)
    _check_group(cfg)
    if cfg.get('metric') is not None:
        return measure(cfg)
    files = _check(cfg)
    failed: list[Failure] = []
    if cfg.prompts_file:
        files, failed = _fit_all(cfg)
    objects = []
    for path in files:
        try:
            objects.append(score_object(path, cfg.resolution))
        except (ValueError, OSError) as error:
            failed.append(Failure(str(path), f'was not scored: {error}'))
    result = EvaluationResult(tuple(objects), _means(objects), tuple(failed))
    record = {**asdict(result), 'failed': [failure.name for failure in failed]}
    write_atomically(cfg.out, json.dumps(record, indent=2) + '\n')
    return result


def score_object(path: str | Path, resolution: int = 64) -> ObjectScore:
    """Score a finished object by images of a side of ``resolution`` pixels, and by its mesh.

    Raises:
        ValueError: when the archive cannot be restored, or the pocket world has no such object.
    """
    model = DreamFusion.restore_from(str(path), map_location='cpu')
    prompt = model.prompts.prompt
    seen = render_object(model, resolution)
    measured = score(seen.image, seen.opacity, prompt) | score_mesh(model, prompt)
    rank = compute_retrieval_rank(seen.image, prompt, SUITE)
    record = Path(path).with_name('metrics.json')
    run = json.loads(record.read_text(encoding='utf-8')) if record.exists() else {}
    return ObjectScore(
        prompt, retrieval_rank=rank, **measured, fit_seconds=run.get('fit_seconds'), steps=run.get('steps')
    )


def table(result: EvaluationResult | MeasuredRuns) -> str:
    """Return the objects and their mean as a Markdown table."""
    if isinstance(result, MeasuredRuns):
        return result.text

    def cell(value: object) -> str:
        return '' if value is None else f'{value:.3f}' if isinstance(value, float) else str(value)

    lines = ['| prompt | ' + ' | '.join(METRICS) + ' |', '|---' * (len(METRICS) + 1) + '|']
    for row in [*map(asdict, result.objects), {'prompt': 'mean', **result.mean}]:
        lines.append(f'| {row["prompt"]} | ' + ' | '.join(cell(row[name]) for name in METRICS) + ' |')
    return '\n'.join(lines)


def _check_group(cfg: DictConfig) -> None:
    """Refuse a setting that the other kind of evaluation has, which would have no effect."""
    shipped = yaml.safe_load((CONF / 'evaluate.yaml').read_text(encoding='utf-8'))
    measured = cfg.get('metric') is not None
    for key in OF_FITS if measured else OF_METRICS:
        if cfg[key] != shipped[key]:
            why = 'without a metric' if measured else 'with a metric'
            refuse(
                key,
                to_plain(cfg)[key],
                f'{shipped[key]!r}, as it is: it has an effect {why} only',
                f'Leave {key} out.',
            )


def _check(cfg: DictConfig) -> list[Path]:
    """Check the settings; return the archives that they name."""
    check_range('workers', cfg.workers, 1, 64, integer=True)
    check_range('resolution', cfg.resolution, 8, 1024, integer=True)
    if bool(cfg.nemo_files or cfg.runs) == bool(cfg.prompts_file):
        raise ValueError(
            'Give either nemo_files=[a.nemo,b.nemo] (or runs=<folder>) or prompts_file=<file>, and not both.'
        )
    files = find_archives(cfg.runs, cfg.nemo_files)
    for path in files:
        check_archive(path)
    check_writable(Path(cfg.out).resolve().parent, 'out')
    return files


def _fit_all(cfg: DictConfig) -> tuple[list[Path], list[Failure]]:
    """Fit every line of the prompts file; return the finished archives, and what failed."""
    prompts = read_prompts(cfg.prompts_file)
    for prompt in prompts:
        build_scene(prompt)  # refuses what the pocket world does not know before any work
    folders = [locate_fit(prompt, cfg) for prompt in prompts]  # refuses keys that do not exist
    check_writable(Path(cfg.exp_dir), 'exp_dir')
    with ThreadPoolExecutor(cfg.workers) as pool:
        fits = pool.map(lambda prompt, folder: _fit(prompt, folder, cfg), prompts, folders)
        made = list(tqdm(fits, total=len(prompts), desc='objects'))
    return [one for one in made if isinstance(one, Path)], [one for one in made if isinstance(one, Failure)]


def locate_fit(prompt: str, cfg: DictConfig) -> Path:
    """Return the folder of the fit of one prompt, whatever ``cfg.overrides`` change."""
    one = load_config(overrides=_overrides(prompt, cfg))
    return locate_folder(one, read_model_prompts(one.model))


def _fit(prompt: str, folder: Path, cfg: DictConfig) -> Path | Failure:
    """Fit one prompt in a process of its own, whose output goes to a log file beside the run's folder."""
    threads = str(max(1, (os.cpu_count() or 1) // cfg.workers))
    log = Path(cfg.exp_dir) / f'{folder.name}.log'
    with log.open('w', encoding='utf-8') as stream:
        environment = {**os.environ, 'OMP_NUM_THREADS': threads}
        done = subprocess.run(fit_command(prompt, cfg), stdout=stream, stderr=stream, env=environment)
    if done.returncode == 0:
        return folder / ARCHIVE
    return Failure(prompt, f'failed with exit code {done.returncode}: see {log}')


def fit_command(prompt: str, cfg: DictConfig) -> list[str]:
    """Return the command that fits one prompt."""
    return [sys.executable, '-m', 'nemo_dreamfusion.launch', '--config-name', 'dreamfusion', *_overrides(prompt, cfg)]


def _overrides(prompt: str, cfg: DictConfig) -> list[str]:
    return [f'model.prompt={quoted(prompt)}', f'exp_manager.exp_dir={quoted(cfg.exp_dir)}', *cfg.overrides]


def _means(objects: Sequence[ObjectScore]) -> dict[str, float | None]:
    found = {name: [value for one in objects if (value := getattr(one, name)) is not None] for name in METRICS}
    return {name: sum(values) / len(values) if values else None for name, values in found.items()}
