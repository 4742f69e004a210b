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

"""The analytic case: updates of the package's scores against formulas, and where particles end."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.integrate import dblquad

from nemo_dreamfusion.launch.benchmarking.analytic import (
    CLOUD,
    EMPTY_MIXTURE,
    STABLE_DIFFUSION,
    TEXT_MIXTURE,
    Formulas,
    compare,
    converge,
    describe_particles,
    signal_and_noise,
)
from nemo_dreamfusion.launch.benchmarking.analytic_report import bench_analytic
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.modules.guidance.diffusion import NoiseSchedule, weight
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.parts.build import build

pytestmark = pytest.mark.unit

SCHEDULE = NoiseSchedule.from_config(STABLE_DIFFUSION)


def make_score(name, **options):
    node = OmegaConf.to_container(load_config(overrides=[f'model/guidance/score={name}']).model.guidance.score)
    return build('model.guidance.score', {**node, **options}, Score)


def make_formulas(weighting='sds', scale=7.5, **options):
    return Formulas(SCHEDULE, lambda t: weight(weighting, SCHEDULE, t).item(), scale, **options)


@pytest.mark.parametrize('name', ['sds', 'csd', 'ism', 'vsd', 'asd', 'rfds', 'rfds_rev'])
def test_update_of_a_score_is_its_formula(name):
    score = make_score(name)
    found = compare(score, GuidanceMixing(guidance_scale=7.5), getattr(make_formulas(score.weighting), name))
    assert found['sigmas'] < 4 and found['relative_error'] < (1e-5 if name == 'ism' else 0.02)


def test_options_enter_score_and_formula_alike():
    options = {'interval': 130, 'inversion_step': 90}
    score = make_score('ism', weighting='residual', **options)
    found = compare(score, GuidanceMixing(guidance_scale=3.0), make_formulas('residual', 3.0, **options).ism)
    assert found['relative_error'] < 1e-5


@pytest.mark.parametrize(
    ('name', 'other'), [('sds', 'csd'), ('csd', 'vsd'), ('vsd', 'sds'), ('asd', 'sds'), ('sds', 'rfds')]
)
def test_formula_of_another_score_does_not_fit(name, other):
    found = compare(make_score(name), GuidanceMixing(guidance_scale=7.5), getattr(make_formulas(), other))
    assert found['sigmas'] > 10


def test_noise_of_a_mixture_is_the_conditional_mean_of_the_noise():
    (a, sigma), x = signal_and_noise(SCHEDULE, 300), np.array([0.4, -0.1])
    s = TEXT_MIXTURE.deviation

    def joint(
        u, v
    ):  # density of x_t = x with the noise (u, v): that of x0 = (x - sigma noise) / a, times the noise's own
        x0 = (x - sigma * np.array([u, v])) / a
        parts = (
            weight * np.exp(-((x0 - np.array(mean)) ** 2).sum() / (2 * s**2)) / (2 * np.pi * s**2)
            for weight, mean in zip(TEXT_MIXTURE.weights, TEXT_MIXTURE.means)
        )
        return sum(parts) * np.exp(-(u * u + v * v) / 2)

    whole, first, second = (
        dblquad(lambda v, u, k=k: joint(u, v) * (1, u, v)[k], -6, 6, -6, 6, epsabs=1e-7)[0] for k in range(3)
    )
    assert TEXT_MIXTURE.noise(x[None], a, sigma)[0] == pytest.approx([first / whole, second / whole], abs=1e-4)


def test_single_gaussians_have_one_line_formulas():
    (a, sigma), x0 = signal_and_noise(SCHEDULE, 400), np.array([0.2, 0.5])
    unguided = make_formulas('uniform', scale=1e-9)  # the empty text alone
    variance = a**2 * EMPTY_MIXTURE.deviation**2 + sigma**2
    assert unguided.sds(x0, 400) == pytest.approx(sigma * a * x0 / variance, abs=1e-6)
    spread = a**2 * CLOUD.deviation**2 + sigma**2
    away = sigma * a * (x0 - np.array(CLOUD.means[0])) / spread
    assert unguided.vsd(x0, 400) == pytest.approx(sigma * a * x0 / variance - away, abs=1e-6)


def test_sds_seeks_a_mode_and_vsd_finds_the_distribution():
    sds, vsd = (describe_particles(converge(make_score(name), count=128)) for name in ('sds', 'vsd'))
    assert sds['deviation'] < 0.05 and sds['offset'] < 0.05
    assert vsd['first_mode'] == pytest.approx(TEXT_MIXTURE.weights[0], abs=0.12)  # three standard deviations of 128
    assert vsd['deviation'] == pytest.approx(TEXT_MIXTURE.deviation, rel=0.35)


def test_particles_are_described_by_their_own_numbers():
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(4000, 2, generator=generator).double().numpy() * TEXT_MIXTURE.deviation
    first = np.arange(4000) < 2800
    places += np.where(first[:, None], *map(np.array, TEXT_MIXTURE.means))
    found = describe_particles(places)
    assert found['first_mode'] == pytest.approx(0.7, abs=0.01)
    assert found['deviation'] == pytest.approx(TEXT_MIXTURE.deviation, rel=0.03) and found['offset'] < 0.02


def test_rows_of_one_score_share_a_line(tmp_path):
    found = bench_analytic(load_config('bench', ['analytic=true', 'only=[sds,rescale]', f'out={tmp_path}']))
    assert list(found) == ['sds'] and found['sds']['rows'] == ['sds', 'rescale']
    assert '| sds, rescale | ScoreDistillationSampling |' in (tmp_path / 'analytic.md').read_text()
