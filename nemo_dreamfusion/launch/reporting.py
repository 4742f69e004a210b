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

"""Gather what the report of a run says, and write it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from nemo_dreamfusion.export.report.page import RunFacts, write_report
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.build import flatten
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.files import write_atomically
from nemo_dreamfusion.parts.ranks import is_global_rank_zero
from nemo_dreamfusion.pocket.metrics import render_object, score

logger = logging.getLogger('nemo_dreamfusion.launch.reporting')

RESOLUTION = 64  # pixels of the views that are scored
NO_SETTINGS = (
    'model.prompt',
    'exp_manager.exp_dir',
    'exp_manager.explicit_log_dir',
    'exp_manager.wandb_logger_kwargs',
)
SHIPPED = (
    *('dreamfusion', 'dreamfusion-sd', 'dreamfusion-dmtet', 'dreamfusion-mesh', 'dreamfusion-edit'),
    *('dreamfusion-sdxl', 'dreamfusion-sd3', 'dreamfusion-mvdream', 'dreamfusion-dmtet-sd'),
)
# Any other shipped configuration differs from this one in twice as many settings.
NEAR = {'dreamfusion': 4}


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Yield a list to which each warning of this package is added, once."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in said:
                said.append(record.getMessage())

    handler, top = Collect(logging.WARNING), logging.getLogger('nemo_dreamfusion')
    top.addHandler(handler)
    try:
        yield said
    finally:
        top.removeHandler(handler)


def report(
    cfg: DictConfig,
    model: DreamFusion,
    folder: Path,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    warnings: Sequence[str],
) -> None:
    """Score the object where its true shape is known, add that to ``metrics.json``, and write ``report.html``.

    A report that cannot be written is a warning: the run's other files are there.

    Args:
        cfg: of the run.
        model: as it was fitted.
        folder: the run's.
        curves: name -> (step, value).
        warnings: of the fit.
    """
    path = folder / 'metrics.json'
    if not is_global_rank_zero() or not path.is_file():
        return
    try:
        metrics = json.loads(path.read_text(encoding='utf-8'))
        scores = score_known(model)
        if scores:
            metrics['scores'] = scores
            write_atomically(path, json.dumps(metrics, indent=2) + '\n')
        seed = model.options.get('seed')
        write_report(RunFacts(model.prompts.prompt, seed, metrics, changed_settings(cfg), curves, warnings), folder)
    except Exception as error:  # whatever it is, the object is finished and saved
        logger.warning('report.html was not written: %s', first_line(error))


def score_known(model: DreamFusion) -> dict[str, Any]:
    """Return the scores of an object that the embedded model made, whose true shape is known; {} for any other."""
    if model.options['guidance'].get('source') != 'pocket':
        return {}
    try:
        seen = render_object(model, RESOLUTION)
        return score(seen.image, seen.opacity, model.prompts.prompt)
    except ValueError:  # a prompt outside its world
        return {}


def changed_settings(cfg: DictConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from the shipped configuration that is nearest: key -> (here, default)."""
    here = _settings(cfg)
    found = []
    for name in SHIPPED:
        default = _shipped_settings(name)
        keys = [key for key in here if here[key] != default.get(key)]
        found.append({key: (here[key], default.get(key, 'not set')) for key in keys})
        if len(keys) <= NEAR.get(name, 0):  # none of the others is nearer, and composing one takes a moment
            break
    return min(found, key=len)


@cache
def _shipped_settings(name: str) -> dict[str, Any]:
    return _settings(load_config(name))


def _settings(cfg: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in flatten(to_plain(cfg)) if not key.startswith(NO_SETTINGS)}
