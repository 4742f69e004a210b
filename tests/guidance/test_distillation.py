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

"""Scores against toy worlds with known answers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from guidance.toy_scores import CURVE, HALF, SCORES, Delta, column, make
from refusals import refusal

from nemo_dreamfusion.modules.guidance.distillation.base import distillation_loss, sanitize_gradient
from nemo_dreamfusion.modules.guidance.distillation.ism import ddim_step

OF_ONE_OBJECT = [name for name, kind in SCORES.items() if not kind.compares_source]  # the others edit


def sds(toy, x0, *, mu=1.0, mu_null=0.0, s0=0.5, scale=1.0, seed=0):
    """The gradient of SDS at t = 0."""
    texts = toy.texts(len(x0), mu=mu, s0=s0, mu_null=mu_null, s_null=s0)
    return make(toy, 'sds', scale=scale).gradient(x0, texts=texts, seed=seed)


def test_mean_and_spread_of_sds(toy):
    x0 = torch.full((20000, 1, 1, 1), 3.0, dtype=torch.float64)
    g = sds(toy(), x0)
    assert g.mean().item() == pytest.approx(HALF * HALF * (3 - 1) / 0.625, abs=0.01)  # w sigma a (x0 - mu) / V = 1.6
    assert g.std().item() == pytest.approx(0.5 * 0.25 / 0.625, abs=0.01)  # w a^2 s0^2 / V = 0.2


def test_one_draw_of_sds(toy, monkeypatch):
    monkeypatch.setattr(
        'nemo_dreamfusion.modules.guidance.distillation.sds.random_normal', lambda *_: torch.full((1, 1, 1, 1), 0.5)
    )
    g = sds(toy(), torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64))
    assert g.item() == pytest.approx(1.6 - 0.2 * 0.5)


def test_a_point_of_data_has_no_noise_in_its_score(toy):
    x0 = torch.full((64, 1, 1, 1), 3.0, dtype=torch.float64)
    g = sds(toy(), x0, s0=0.0)
    torch.testing.assert_close(g, torch.full_like(g, HALF * (3 - 1) / HALF), rtol=0, atol=1e-7)


def test_guidance_scale_is_s_and_not_one_plus_s(toy):
    x = torch.zeros(256, 1, 1, 1, dtype=torch.float64)
    for step in range(200):
        x = x - 0.5 * sds(toy(), x, scale=7.5, seed=step)
    assert x.mean().item() == pytest.approx(0 + 7.5 * (1 - 0), abs=0.05)


@pytest.mark.parametrize('kind', ['v_prediction', 'sample'])
def test_prediction_types_give_the_same_gradient(toy, kind):
    x0 = torch.linspace(-3, 3, 8, dtype=torch.float64).view(8, 1, 1, 1)
    reference = sds(toy(), x0, scale=7.5)
    torch.testing.assert_close(sds(toy(speaks=kind), x0, scale=7.5), reference, rtol=0, atol=1e-5)


def test_a_v_network_read_as_epsilon_is_wrong(toy):
    x0 = torch.full((2000, 1, 1, 1), 3.0, dtype=torch.float64)
    g = sds(toy(speaks='v_prediction', read_as='epsilon'), x0)
    assert abs(g.mean().item() - 1.6) > 0.5


def test_the_generator_is_the_only_source_of_chance(toy):
    x0 = torch.randn(4, 1, 4, 4, dtype=torch.float64)
    first = sds(toy(), x0, seed=3)
    torch.randn(17)
    assert torch.equal(sds(toy(), x0, seed=3), first)


def test_csd_is_constant_where_both_are_equally_wide(toy):
    world = toy()
    g = make(world, 'csd').gradient(column(-3, 0, 1, 3), texts=world.texts(4))
    torch.testing.assert_close(g, torch.full_like(g, -0.5 * 1.0 / 0.625))  # -w sigma a (mu_y - mu_0) / V = -0.8
    scaled = make(world, 'csd', scale=7.5).gradient(column(-3, 0, 1, 3), texts=world.texts(4))
    torch.testing.assert_close(scaled, 7.5 * g)


def test_csd_finds_its_optimum_where_the_text_is_narrower(toy):
    world, x = toy(), column(*[0.0] * 64)
    texts = world.texts(64, s0=0.5, s_null=2.0)
    for step in range(400):
        x = x - 0.5 * make(world, 'csd').gradient(x, texts=texts, seed=step)
    assert x.mean().item() == pytest.approx((1 * 2.5 - 0 * 0.625) / (2.5 - 0.625), abs=0.1)  # 4 / 3


def test_vsd_with_a_network_that_knows_x0_is_sds(toy):
    world, x0 = toy(), column(-2, 3)
    texts = world.texts(2)
    vsd = make(world, 'vsd', scale=7.5, learned=Delta(world.schedule, x0)).gradient(x0, texts=texts)
    torch.testing.assert_close(vsd, make(world, 'sds', scale=7.5).gradient(x0, texts=texts))


def test_vsd_before_it_learns_is_s_minus_1_times_csd(toy):
    world, x0 = toy(), column(-2, 3)
    texts = world.texts(2)
    g = make(world, 'vsd', scale=7.5).gradient(x0, texts=texts)
    torch.testing.assert_close(g, torch.full_like(g, (7.5 - 1) * -0.8))  # -5.2
    assert make(world, 'vsd', scale=1.0).gradient(x0, texts=texts).abs().max() < 1e-12


def test_vsd_keeps_the_spread_that_sds_loses(toy):
    """256 particles, their Gaussian refitted at each step, target N(1, .5^2)."""
    world = toy()
    texts = world.texts(256)
    start = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2

    class Fitted:
        x = start

        def __call__(self, noisy, t, conditioning):
            own = world.text(self.x.mean().item(), self.x.std().item(), 256)
            return world.model(noisy, t, [own])[0]

    fitted = Fitted()
    vsd, sds, lost = make(world, 'vsd', learned=fitted), make(world, 'sds'), start
    for step in range(600):
        fitted.x = fitted.x - 0.2 * vsd.gradient(fitted.x, texts=texts, seed=step)
        lost = lost - 0.02 * sds.gradient(lost, texts=texts, seed=step)
    assert fitted.x.std().item() == pytest.approx(0.5, abs=0.02)
    assert fitted.x.mean().item() == pytest.approx(1.0, abs=0.02)
    assert lost.std().item() < 0.1


def test_ism_of_points_has_no_interval_term(toy):
    world = toy(CURVE)
    texts = world.texts(3, mu=1.0, s0=0.0, mu_null=0.3, s_null=0.0)
    for t in (20, 500, 900):
        g = make(world, 'ism', scale=7.5, weighting='residual').gradient(column(-2, 0, 3), t, texts=texts)
        torch.testing.assert_close(g, torch.full_like(g, -7.5 * (1.0 - 0.3)), rtol=1e-3, atol=0)  # -5.25


def test_two_steps_by_hand(toy, monkeypatch):
    world = toy([0.8**2, 0.6**2])
    texts = world.texts(mu=1.0, s0=0.5, mu_null=0.0, s_null=1.5)
    ism = make(world, 'ism', scale=7.5, weighting='residual', interval=1)
    monkeypatch.setattr(ism.score, 'invert', lambda x0, until, context, model: column(1.9))
    g = ism.gradient(column(2.0), 1, texts=texts)
    f = 0.6 * 1.9 / (0.64 * 2.25 + 0.36)
    noisy = 0.6 * (1.9 - 0.6 * f) / 0.8 + 0.8 * f
    assert (f, noisy) == pytest.approx((0.633333, 1.646667), abs=1e-6)
    assert g.item() == pytest.approx(2.752158, abs=1e-5)


def test_the_parts_by_hand(toy, monkeypatch):
    """g / w = s (eps_text - eps_empty)(x_t) + [eps_empty(x_t) - F], each by hand and by the network."""
    world = toy([0.8**2, 0.6**2])
    texts = world.texts(mu=1.0, s0=0.5, mu_null=0.0, s_null=1.5)
    noisy, t = column(1.646667), torch.tensor([1])
    text, empty = (e.item() for e in world.model(noisy, t, [texts.text, texts.empty]))
    assert (empty, text) == pytest.approx((0.908506, 1.147032), abs=1e-6)
    ism = make(world, 'ism', scale=7.5, interval=1)
    monkeypatch.setattr(ism.score, 'invert', lambda x0, until, context, model: column(1.9))
    assert ism.gradient(column(2.0), 1, texts=texts).item() == pytest.approx(2.064119, abs=1e-5)
    assert 7.5 * (text - empty) + 0.275172 == pytest.approx(2.064119, abs=1e-5)


@pytest.mark.parametrize('interval', [200, 100, 50])
def test_the_interval_where_the_inversion_is_exact(toy, stable_diffusion_schedule, interval):
    """N(0, 1.5^2) is inverted exactly by x_s = x0 sqrt(V_s) / 1.5; the rest of the interval by hand."""
    abar = stable_diffusion_schedule.a.double() ** 2
    (a_s, sigma_s), (a_t, sigma_t) = ((abar[i] ** 0.5, (1 - abar[i]) ** 0.5) for i in (500 - interval, 500))
    v_s, v_t = a_s**2 * 1.5**2 + sigma_s**2, a_t**2 * 1.5**2 + sigma_t**2
    x_s = 2.0 * v_s**0.5 / 1.5
    f = sigma_s * x_s / v_s
    x_t = a_t * (x_s - sigma_s * f) / a_s + sigma_t * f
    world = toy(abar.tolist())
    fine = make(world, 'ism', scale=1e-12, interval=interval, inversion_step=1)
    found = fine.gradient(column(2.0), 500, texts=world.texts(mu_null=0.0, s_null=1.5)).item()
    assert found == pytest.approx((sigma_t * x_t / v_t - f).item(), abs=2e-4)


def test_ism_inverts_under_the_empty_text_and_guides_away_from_the_negative_one(toy):
    world = toy(CURVE)
    plain = world.texts(mu_null=0.0, s_null=1.5)
    negative = dataclasses.replace(plain, unconditional=world.text(-1.0, 0.7))
    ism = make(world, 'ism', scale=7.5)
    without, against = (ism.gradient(column(2.0), 500, texts=texts) for texts in (plain, negative))
    assert (against - without).abs() > 0.1
    inverted = ism.score.invert(column(2.0), 450, plain.empty, world.model)
    s, t = torch.tensor([450]), torch.tensor([500])
    (f,) = world.model(inverted, s, [plain.empty])
    noisy = ddim_step(world.schedule, inverted, s, t, f)
    text, uncond = world.model(noisy, t, [negative.text, negative.unconditional])
    torch.testing.assert_close(against, uncond + 7.5 * (text - uncond) - f)


def test_a_rescale_of_the_classifier_score_is_refused(toy):
    with refusal('model.guidance.mixing.guidance_rescale', 0.5, 'model.guidance.mixing.guidance_rescale=0'):
        make(toy(), 'csd', rescale=0.5)


def test_ism_is_csd_and_an_interval_that_shrinks(toy):
    world = toy(CURVE)
    texts = world.texts(mu_null=0.0, s_null=1.5)
    parts = {}
    for interval in (200, 100, 50):
        without = make(world, 'ism', scale=1e-12, interval=interval)  # what is left is the interval
        parts[interval] = without.gradient(column(2.0), 500, texts=texts).item()
    assert parts[200] / parts[100] == pytest.approx(2, rel=0.1)
    assert parts[100] / parts[50] == pytest.approx(2, rel=0.1)


def test_the_inversion_reaches_the_known_limit(toy, stable_diffusion_schedule):
    """x_t -> a mu + (x0 - mu) sqrt(V) / s0 as the steps shrink; 10, 50 and 500 steps by an independent script."""
    world = toy([1.0, *(stable_diffusion_schedule.a.double() ** 2).tolist()[1:]])
    for step, expected in ((60, 1.98986), (12, 2.20010)):
        ism = make(world, 'ism', inversion_step=step)
        found = ism.score.invert(column(2.0), 600, world.text(1.0, 0.5), world.model).item()
        assert found == pytest.approx(expected, abs=1e-4)
    fine = (
        make(world, 'ism', inversion_step=1).score.invert(column(2.0), 600, world.text(1.0, 0.5), world.model).item()
    )
    assert 2.26411 < fine < 2.27652  # finer than the script's 500 steps, short of the limit


@pytest.mark.parametrize(
    ('negatives', 'weights'),
    [([(3.0, 0.5), (-1.0, 2.0)], (0.0, 0.0)), ([(1.0, 0.5)], (-2.0,)), ([(0.0, 0.5)], (-2.0,))],
    ids=['weight 0', 'negative = positive', 'negative = empty'],
)
def test_cases_that_equal_plain_guidance(toy, negatives, weights):
    world, x0 = toy(), column(-2, 3)
    plain = make(world, 'sds', scale=7.5).gradient(x0, texts=world.texts(2))
    found = make(world, 'sds', scale=7.5).gradient(x0, texts=world.texts(2, negatives=negatives, weights=weights))
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_rescale_is_the_identity_at_scale_1(toy):
    world, x0 = toy(), torch.randn(2, 4, 4, 4, dtype=torch.float64)
    plain = make(world, 'sds').gradient(x0, texts=world.texts(2))
    torch.testing.assert_close(make(world, 'sds', rescale=0.7).gradient(x0, texts=world.texts(2)), plain)


@pytest.mark.parametrize('kind', OF_ONE_OBJECT)
@pytest.mark.parametrize('speaks', ['v_prediction', 'sample'])
def test_prediction_types_agree_for_every_score(toy, kind, speaks):
    x0 = column(-2, 0.5, 3)
    found = []
    for language in ('epsilon', speaks):
        world = toy(CURVE, speaks=language)
        texts = world.texts(3, negatives=[(2.0, 0.4)], weights=(-0.5,))
        found.append(make(world, kind, scale=7.5).gradient(x0, 400, texts=texts))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('kind', 't', 'rows'),
    [('sds', 500, 2), ('csd', 500, 2), ('ism', 500, 3 + 3), ('ism', 980, 5 + 3), ('ism', 20, 1 + 3), ('vsd', 500, 3)]
    + [('asd', 500, 3), ('bridge', 500, 2), ('rfds', 500, 2), ('rfds_rev', 500, 3)],
)
@pytest.mark.parametrize('perp_neg', [0, 2])
def test_rows_per_image(toy, kind, t, rows, perp_neg):
    world = toy(CURVE)
    texts = world.texts(2, negatives=[(2.0, 0.4)] * perp_neg, weights=(-0.5,) * perp_neg)
    make(world, kind, **({'interval': 80} if kind == 'ism' else {})).gradient(column(-2, 3), t, texts=texts)
    assert world.network.rows == 2 * (rows + perp_neg)


@pytest.mark.parametrize(('kind', 'change'), [('sds', 1.0), ('csd', 0.0), ('vsd', 0.0), ('asd', 0.0), ('bridge', 1.0)])
def test_a_constant_added_to_every_row(toy, kind, change):
    x0, shift, found = column(-2, 3), 0.25, []
    for constant in (0.0, shift):
        world = toy(CURVE, shift=constant)
        found.append(make(world, kind, scale=7.5).gradient(x0, 500, texts=world.texts(2)))
    torch.testing.assert_close(found[1] - found[0], torch.full_like(x0, change * shift))


@pytest.mark.parametrize('kind', OF_ONE_OBJECT)
def test_same_seed_same_gradient(toy, kind):
    world, x0 = toy(CURVE), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    texts = world.texts(2)
    first = make(world, kind, scale=3.0).gradient(x0, 400, texts=texts, seed=4)
    torch.randn(5)
    assert torch.equal(make(world, kind, scale=3.0).gradient(x0, 400, texts=texts, seed=4), first)


@pytest.mark.parametrize('option', ['interval', 'inversion_step'])
def test_bad_options_of_ism_are_refused(toy, option):
    with refusal(f'model.guidance.score.{option}', 0, 1, 999):
        make(toy(), 'ism', **{option: 0})


def test_the_losss_gradient_is_g_over_b():
    x0 = torch.randn(4, 4, 8, 8).requires_grad_(True)
    g = torch.randn(4, 4, 8, 8)
    distillation_loss(x0, g).backward()
    torch.testing.assert_close(x0.grad, g / 4, rtol=0, atol=1e-6)


def test_a_row_of_nan_does_not_spread():
    x0 = torch.randn(2, 4, 8, 8).requires_grad_(True)
    g = torch.randn(2, 4, 8, 8)
    g[1] = math.nan
    distillation_loss(x0, sanitize_gradient(g)).backward()
    torch.testing.assert_close(x0.grad[0], g[0] / 2, rtol=0, atol=1e-6)
    assert (x0.grad[1] == 0).all()


def test_an_infinite_element_becomes_zero_where_no_limit_is_set():
    assert sanitize_gradient(torch.tensor([math.inf, 3.0, -math.inf])).tolist() == [0.0, 3.0, 0.0]


def test_a_network_that_gives_nothing_finite_is_not_hidden():
    assert sanitize_gradient(torch.full((2, 4, 8, 8), math.nan), limit=1.0).isnan().all()


def test_half_precision_latents_are_refused():
    with refusal('distillation_loss', 'torch.float16', 'float32'):
        distillation_loss(torch.zeros(1, 4, 2, 2, dtype=torch.float16), torch.zeros(1, 4, 2, 2))


def test_clipping_is_elementwise_and_the_identity_where_nothing_is_larger():
    g = torch.randn(2, 4, 8, 8)
    assert torch.equal(sanitize_gradient(g, limit=100.0), g)
    assert sanitize_gradient(g, limit=0.5).abs().max() == 0.5
    assert sanitize_gradient(torch.tensor([math.inf, -math.inf]), limit=2.0).tolist() == [2.0, -2.0]
