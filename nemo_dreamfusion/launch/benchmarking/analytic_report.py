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

"""The analytic case of a benchmark: every row's score in the plane, beside its formula and beside the true answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_dreamfusion.launch.benchmarking.analytic import (
    STABLE_DIFFUSION,
    TEXT_MIXTURE,
    Formulas,
    compare,
    converge,
    describe_particles,
)
from nemo_dreamfusion.launch.benchmarking.plan import activate_plugins, read_rows
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.launch.paths import expand_config
from nemo_dreamfusion.modules.guidance.diffusion import NoiseSchedule, weight
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.files import check_writable, write_atomically

FORMULAS = {  # of the published scores, by their classes
    'ScoreDistillationSampling': 'sds',
    'ClassifierScoreDistillation': 'csd',
    'IntervalScoreMatching': 'ism',
    'VariationalScoreDistillation': 'vsd',
    'AsynchronousScoreDistillation': 'asd',
    'RectifiedFlowDistillation': 'rfds',
    'RevisedRectifiedFlowDistillation': 'rfds_rev',
    'BridgeScore': 'sds',  # its first stage
}
SCALES = (1.0, 7.5)


def bench_analytic(cfg: DictConfig) -> dict[str, Any]:
    """Compare the score of each chosen row with its formula, and see where particles that follow it end.

    Rows of the same score share a line: rescale and Perp-Neg act on images, and have no meaning for two numbers. Writes
    analytic.json and analytic.md into ``cfg.out``.

    Args:
        cfg: ``nemo_dreamfusion/conf/bench.yaml``.

    Raises:
        ValueError: for a row that cannot be built.
    """
    cfg = cfg.copy()
    expand_config(cfg)
    activate_plugins(cfg.plugins)
    rows, chosen = read_rows(cfg)
    out = Path(cfg.out).resolve()
    nodes = {name: _score_node([*map(str, cfg.overrides), *rows[name]]) for name in chosen}
    scores = {name: build('model.guidance.score', node, Score) for name, node in nodes.items()}
    check_writable(out, 'out')
    results: dict[str, Any] = {}
    for name, node in nodes.items():
        same = next((other for other in results if nodes[other] == node), None)
        if same is None:
            results[name] = {'rows': [name], **_examine(scores[name])}
        else:
            results[same]['rows'].append(name)
    write_atomically(out / 'analytic.json', json.dumps(list(results.values()), indent=2) + '\n')
    write_atomically(out / 'analytic.md', _write_table(results))
    return results


def _score_node(overrides: list[str]) -> dict[str, Any]:
    node = OmegaConf.to_container(load_config(overrides=overrides).model.guidance.score, resolve=True)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def _examine(score: Score) -> dict[str, Any]:
    found: dict[str, Any] = {'score': type(score).__name__, 'relative_error': None, 'sigmas': None}
    schedule, scale = NoiseSchedule.from_config(STABLE_DIFFUSION), SCALES[-1]
    formula = FORMULAS.get(type(score).__name__)
    if formula:
        own = {
            key: getattr(score, key) for key in ('interval', 'inversion_step', 'shift', 'start') if hasattr(score, key)
        }
        formulas = Formulas(schedule, lambda t: weight(score.weighting, schedule, t).item(), scale, **own)
        found |= compare(score, GuidanceMixing(guidance_scale=scale), getattr(formulas, formula))
    found['particles'] = {str(scale): describe_particles(converge(score, scale)) for scale in SCALES}
    return found


def _write_table(results: dict[str, Any]) -> str:
    scales = [f'{what}, scale {scale:g}' for scale in SCALES for what in ('first mode', 'deviation')]
    lines = [
        '| rows | score | update against formula | standard errors | ' + ' | '.join(scales) + ' |',
        '|---' * (4 + len(scales)) + '|',
        f'| the text itself | | | | {TEXT_MIXTURE.weights[0]:.2f} | {TEXT_MIXTURE.deviation:.3f} | | |',
    ]
    for one in results.values():
        error, sigmas = ('' if one[key] is None else f'{one[key]:.1e}' for key in ('relative_error', 'sigmas'))
        ends = (one['particles'][str(scale)] for scale in SCALES)
        cells = ' | '.join(f'{end["first_mode"]:.2f} | {end["deviation"]:.3f}' for end in ends)
        lines.append(f'| {", ".join(one["rows"])} | {one["score"]} | {error} | {sigmas} | {cells} |')
    return '\n'.join(lines) + '\n'
