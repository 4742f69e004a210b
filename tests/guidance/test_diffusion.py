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

import dataclasses

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.modules.guidance import diffusion as sd


def test_reference_table_of_stable_diffusion(stable_diffusion_schedule):
    abar = stable_diffusion_schedule.a**2
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
    torch.testing.assert_close(sd.NoiseSchedule.from_config(config).a ** 2, theirs, rtol=2e-4, atol=1e-6)


def test_every_prediction_type_says_the_same_velocity():
    x0, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 1, 2])
    for kind in sd.PREDICTION_TYPES:
        schedule = sd.NoiseSchedule.from_abar(torch.tensor([0.9, 0.5, 0.02]), kind)
        a, sigma = schedule.signal_and_noise(t)
        v = a * noise - sigma * x0
        says = {'epsilon': noise, 'v_prediction': v, 'sample': x0}[kind]
        torch.testing.assert_close(schedule.velocity(says, a * x0 + sigma * noise, t), v, rtol=1e-4, atol=1e-4)


def test_a_flow_is_the_same_process_with_another_table():
    """Each kind of output gives the same noise, and g of SDS is w a (u - (eps - x0)), as the flow's own papers write it."""
    sigma = torch.tensor([0.1, 0.5, 0.9])
    flow = sd.NoiseSchedule.flow(sigma)
    x0, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 1, 2])
    noisy, column = flow.add_noise(x0, noise, t), sigma.view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy, (1 - column) * x0 + column * noise)
    for kind, says in {sd.FLOW: noise - x0, 'epsilon': noise, 'sample': x0}.items():
        schedule = dataclasses.replace(flow, prediction_type=kind)
        torch.testing.assert_close(schedule.epsilon(says, noisy, t), noise, rtol=1e-4, atol=1e-4)
    u = torch.randn(3, 4, 2, 2)
    torch.testing.assert_close(
        flow.epsilon(u, noisy, t) - noise, (1 - column) * (u - (noise - x0)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(flow.velocity_of(x0, noise, t), noise - x0)
    assert flow.network_times(t).tolist() == pytest.approx([100, 500, 900])


@pytest.mark.parametrize('shift', [1.0, 3.0])
def test_the_times_of_a_flow_equal_those_of_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    ours = sd.NoiseSchedule.from_config(dict(theirs.config) | {'_class_name': 'FlowMatchEulerDiscreteScheduler'})
    torch.testing.assert_close(ours.sigma, theirs.sigmas.flip(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.times, theirs.timesteps.flip(0), rtol=1e-5, atol=1e-3)
    assert ours.prediction_type == sd.FLOW and (ours.a > 0).all()


def test_a_dynamic_shift_equals_that_of_diffusers():
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift

    config = {'use_dynamic_shifting': True, 'base_shift': 0.5, 'max_shift': 1.15}
    theirs = FlowMatchEulerDiscreteScheduler(**config)
    theirs.set_timesteps(sigmas=[0.25, 0.5], mu=calculate_shift(1024))
    ours = sd.NoiseSchedule.from_config({**config, '_class_name': theirs.__class__.__name__}, image_tokens=1024)
    torch.testing.assert_close(ours.sigma[[249, 499]], theirs.sigmas[:2], rtol=1e-5, atol=1e-6)


def test_unknown_schedules_and_prediction_types_are_refused():
    with refusal('beta_schedule', 'sigmoid', 'linear', 'scaled_linear', 'squaredcos_cap_v2'):
        sd.NoiseSchedule.from_config({'beta_schedule': 'sigmoid'})
    with refusal('prediction_type', 'flow', 'epsilon', 'v_prediction', 'sample'):
        sd.NoiseSchedule.from_config({'prediction_type': 'flow'})


def test_pure_noise_at_the_end_gives_finite_numbers():
    schedule = sd.NoiseSchedule.from_abar(torch.tensor([0.5, 0.0]))
    x = torch.ones(1, 1, 1, 1)
    t = torch.ones(1, dtype=torch.int64)
    for kind in sd.PREDICTION_TYPES:
        assert dataclasses.replace(schedule, prediction_type=kind).epsilon(x, x, t).isfinite().all()
    assert all(sd.weight(name, schedule, t).isfinite().all() for name in sd.WEIGHTINGS)


def test_weights():
    schedule = sd.NoiseSchedule.from_abar(torch.tensor([0.64]))  # a = .8, sigma = .6
    t = torch.zeros(1, dtype=torch.int64)
    expected = {'sds': 0.6**2, 'uniform': 1.0, 'fantasia3d': 0.8 * 0.6**2, 'residual': 0.6 / 0.8}
    for name in sd.WEIGHTINGS:
        assert sd.weight(name, schedule, t).item() == pytest.approx(expected[name])
