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


"""Noise schedules, prediction types and weightings, against reference tables and diffusers."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.modules.guidance import diffusion as sd


def test_reference_table_of_stable_diffusion(stable_diffusion_schedule):
    abar = stable_diffusion_schedule.abar
    expected = {0: 0.999150, 20: 0.981314, 500: 0.276332, 980: 0.005844, 999: 0.004660}
    for t, value in expected.items():
        assert abar[t].item() == pytest.approx(value, abs=1e-6)
    a, sigma = stable_diffusion_schedule.signal_and_noise(torch.tensor([20, 200, 500, 980]))
    assert (sigma / a).flatten().tolist() == pytest.approx([0.1380, 0.5717, 1.6183, 13.043], rel=1e-3)


@pytest.mark.parametrize('kind', ['linear', 'scaled_linear', 'squaredcos_cap_v2'])
@pytest.mark.parametrize('zero_snr', [False, True])
def test_tables_equal_those_of_diffusers(kind, zero_snr):
    from diffusers import DDIMScheduler

    config = {'beta_schedule': kind, 'beta_start': 0.00085, 'beta_end': 0.012, 'rescale_betas_zero_snr': zero_snr}
    theirs = DDIMScheduler(**config).alphas_cumprod
    torch.testing.assert_close(sd.NoiseSchedule.from_config(config).abar, theirs, rtol=2e-4, atol=1e-6)


def test_every_prediction_type_says_the_same_velocity():
    x0, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 1, 2])
    for kind in sd.PREDICTION_TYPES:
        schedule = sd.NoiseSchedule(torch.tensor([0.9, 0.5, 0.02]), kind)
        a, sigma = schedule.signal_and_noise(t)
        v = a * noise - sigma * x0
        says = {'epsilon': noise, 'v_prediction': v, 'sample': x0}[kind]
        torch.testing.assert_close(schedule.velocity(says, a * x0 + sigma * noise, t), v, rtol=1e-4, atol=1e-4)


def test_unknown_schedules_and_prediction_types_are_refused():
    with refusal('beta_schedule', 'sigmoid', 'linear', 'scaled_linear', 'squaredcos_cap_v2'):
        sd.NoiseSchedule.from_config({'beta_schedule': 'sigmoid'})
    with refusal('prediction_type', 'flow', 'epsilon', 'v_prediction', 'sample'):
        sd.NoiseSchedule.from_config({'prediction_type': 'flow'})


def test_pure_noise_at_the_end_gives_finite_numbers():
    schedule = sd.NoiseSchedule(torch.tensor([0.5, 0.0]))
    x = torch.ones(1, 1, 1, 1)
    t = torch.ones(1, dtype=torch.int64)
    for kind in sd.PREDICTION_TYPES:
        assert sd.NoiseSchedule(schedule.abar, kind).epsilon(x, x, t).isfinite().all()
    assert all(sd.weight(name, schedule, t).isfinite().all() for name in sd.WEIGHTINGS)


def test_weights():
    schedule = sd.NoiseSchedule(torch.tensor([0.64]))  # a = .8, sigma = .6
    t = torch.zeros(1, dtype=torch.int64)
    expected = {'sds': 0.6**2, 'uniform': 1.0, 'fantasia3d': 0.8 * 0.6**2, 'residual': 0.6 / 0.8}
    for name in sd.WEIGHTINGS:
        assert sd.weight(name, schedule, t).item() == pytest.approx(expected[name])
