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

"""The mathematics against toy worlds with known answers (numbers of docs: T1, T2, T12, T13, T16) and reference tables."""

from __future__ import annotations

import math

import pytest
import torch

from nemo_dreamfusion.modules.guidance import diffusion as sd
from nemo_dreamfusion.modules.guidance.guiders import Conditioning, Guider
from nemo_dreamfusion.modules.guidance.scores import ScoreDistillation

HALF = math.sqrt(0.5)


def sds(toy, x0, *, mu=1.0, mu_null=0.0, s0=0.5, scale=1.0, seed=0, weight='uniform'):
    """The gradient of SDS in a toy world, at t = 0."""
    batch = len(x0)
    score = ScoreDistillation(toy.model, Guider(scale=scale), lambda t: sd.weight(weight, toy.schedule, t))
    texts = Conditioning(toy.text(mu, s0, batch), toy.text(mu_null, s0, batch))
    t = torch.zeros(batch, dtype=torch.int64)
    return score.gradient(x0, t, texts, torch.Generator().manual_seed(seed))


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
    with pytest.raises(ValueError, match='linear, scaled_linear, squaredcos_cap_v2'):
        sd.NoiseSchedule.from_config({'beta_schedule': 'sigmoid'})
    with pytest.raises(ValueError, match='epsilon, v_prediction, sample'):
        sd.NoiseSchedule.from_config({'prediction_type': 'flow'})


def test_pure_noise_at_the_end_gives_finite_numbers():
    schedule = sd.NoiseSchedule(torch.tensor([0.5, 0.0]))
    x = torch.ones(1, 1, 1, 1)
    t = torch.ones(1, dtype=torch.int64)
    for kind in sd.PREDICTION_TYPES:
        assert sd.NoiseSchedule(schedule.abar, kind).epsilon(x, x, t).isfinite().all()
    assert all(sd.weight(name, schedule, t).isfinite().all() for name in sd.WEIGHTINGS)


def test_t1_mean_and_spread_of_sds(toy):
    x0 = torch.full((20000, 1, 1, 1), 3.0, dtype=torch.float64)
    g = sds(toy(), x0)
    assert g.mean().item() == pytest.approx(HALF * HALF * (3 - 1) / 0.625, abs=0.01)  # w sigma a (x0 - mu) / V = 1.6
    assert g.std().item() == pytest.approx(0.5 * 0.25 / 0.625, abs=0.01)  # w a^2 s0^2 / V = 0.2


def test_t1_one_draw_of_sds(toy, monkeypatch):
    monkeypatch.setattr(
        'nemo_dreamfusion.modules.guidance.scores.random_normal', lambda *_: torch.full((1, 1, 1, 1), 0.5)
    )
    g = sds(toy(), torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64))
    assert g.item() == pytest.approx(1.6 - 0.2 * 0.5)


def test_t1_a_point_of_data_has_no_noise_in_its_score(toy):
    x0 = torch.full((64, 1, 1, 1), 3.0, dtype=torch.float64)
    g = sds(toy(), x0, s0=0.0)
    torch.testing.assert_close(g, torch.full_like(g, HALF * (3 - 1) / HALF), rtol=0, atol=1e-7)


def test_t2_guidance_scale_is_s_and_not_one_plus_s(toy):
    x = torch.zeros(256, 1, 1, 1, dtype=torch.float64)
    for step in range(200):
        x = x - 0.5 * sds(toy(), x, scale=7.5, seed=step)
    assert x.mean().item() == pytest.approx(0 + 7.5 * (1 - 0), abs=0.05)


@pytest.mark.parametrize('kind', ['v_prediction', 'sample'])
def test_t12_d14_prediction_types_give_the_same_gradient(toy, kind):
    x0 = torch.linspace(-3, 3, 8, dtype=torch.float64).view(8, 1, 1, 1)
    reference = sds(toy(), x0, scale=7.5)
    torch.testing.assert_close(sds(toy(speaks=kind), x0, scale=7.5), reference, rtol=0, atol=1e-5)


def test_t12_d14_a_v_network_read_as_epsilon_is_wrong(toy):
    x0 = torch.full((2000, 1, 1, 1), 3.0, dtype=torch.float64)
    g = sds(toy(speaks='v_prediction', read_as='epsilon'), x0)
    assert abs(g.mean().item() - 1.6) > 0.5


def test_t13_the_losss_gradient_is_g_over_b():
    x0 = torch.randn(4, 4, 8, 8).requires_grad_(True)
    g = torch.randn(4, 4, 8, 8)
    sd.distillation_loss(x0, g).backward()
    torch.testing.assert_close(x0.grad, g / 4, rtol=0, atol=1e-6)


def test_t13_a_row_of_nan_does_not_spread():
    x0 = torch.randn(2, 4, 8, 8).requires_grad_(True)
    g = torch.randn(2, 4, 8, 8)
    g[1] = math.nan
    sd.distillation_loss(x0, sd.tame(g)).backward()
    torch.testing.assert_close(x0.grad[0], g[0] / 2, rtol=0, atol=1e-6)
    assert (x0.grad[1] == 0).all()


def test_an_infinite_element_becomes_zero_where_no_limit_is_set():
    assert sd.tame(torch.tensor([math.inf, 3.0, -math.inf])).tolist() == [0.0, 3.0, 0.0]


def test_a_network_that_gives_nothing_finite_is_not_hidden():
    assert sd.tame(torch.full((2, 4, 8, 8), math.nan), limit=1.0).isnan().all()


def test_half_precision_latents_are_refused():
    with pytest.raises(ValueError, match='float32'):
        sd.distillation_loss(torch.zeros(1, 4, 2, 2, dtype=torch.float16), torch.zeros(1, 4, 2, 2))


def test_t15_clipping_is_elementwise_and_the_identity_where_nothing_is_larger():
    g = torch.randn(2, 4, 8, 8)
    assert torch.equal(sd.tame(g, limit=100.0), g)
    assert sd.tame(g, limit=0.5).abs().max() == 0.5
    assert sd.tame(torch.tensor([math.inf, -math.inf]), limit=2.0).tolist() == [2.0, -2.0]


def test_t16_the_generator_is_the_only_source_of_chance(toy):
    x0 = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    first = sds(toy(), x0, seed=3)
    torch.randn(17)
    assert torch.equal(sds(toy(), x0, seed=3), first)


def test_weights():
    schedule = sd.NoiseSchedule(torch.tensor([0.64]))  # a = .8, sigma = .6
    t = torch.zeros(1, dtype=torch.int64)
    expected = {'sds': 0.6**2, 'uniform': 1.0, 'fantasia3d': 0.8 * 0.6**2, 'residual': 0.6 / 0.8}
    for name in sd.WEIGHTINGS:
        assert sd.weight(name, schedule, t).item() == pytest.approx(expected[name])
