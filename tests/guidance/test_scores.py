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

"""Score variants and modifiers against toy worlds with known answers (T3, T4, T6, T10, T11, T12, T17, T18)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nemo_dreamfusion.modules.guidance import diffusion as sd
from nemo_dreamfusion.modules.guidance import scores
from nemo_dreamfusion.modules.guidance.guiders import Conditioning, Guider, rescale_guidance
from nemo_dreamfusion.modules.guidance.perp_neg import PERP_NEG, perpendicular_negatives, view_negative_weights

KINDS = {'sds': scores.ScoreDistillation, 'csd': scores.ClassifierScore, 'ism': scores.IntervalScore}
CURVE = torch.linspace(0.9991, 0.01, 1000, dtype=torch.float64).tolist()


class Delta:
    """A learned network that knows x0 exactly: the noise is what was added."""

    def __init__(self, schedule, x0):
        self.schedule, self.x0 = schedule, x0

    def __call__(self, noisy, t, conditioning):
        a, sigma = self.schedule.signal_and_noise(t)
        return (noisy - a * self.x0) / sigma


class Same:
    """A learned network that is still the frozen one."""

    def __init__(self, toy):
        self.toy = toy

    def __call__(self, noisy, t, conditioning):
        return self.toy.model(noisy, t, [conditioning.text])[0]


def make(toy, kind, *, scale=1.0, weight='uniform', rescale=0.0, **options):
    guider = Guider(scale=scale, rescale=rescale)
    options = {'learned': Same(toy), **options} if kind == 'vsd' else options
    kinds = {**KINDS, 'vsd': scores.VariationalScore}
    return kinds[kind](toy.model, guider, lambda t: sd.weight(weight, toy.schedule, t), **options)


def run(score, x0, t=0, *, texts, seed=0):
    times = torch.full((len(x0),), t, dtype=torch.int64)
    return score.gradient(x0, times, texts, torch.Generator().manual_seed(seed))


def texts_of(toy, batch=1, *, mu=1.0, s0=0.5, mu_null=0.0, s_null=0.5, negatives=(), weights=()):
    extra = {}
    if negatives:
        extra['negatives'] = torch.stack([toy.text(m, s, batch) for m, s in negatives], 1)
        extra['negative_weights'] = torch.tensor([weights], dtype=torch.float64).expand(batch, -1)
    null = toy.text(mu_null, s_null, batch)
    return Conditioning(toy.text(mu, s0, batch), null, empty=null, **extra)


def column(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def test_t3_csd_is_constant_where_both_are_equally_wide(toy):
    world = toy()
    g = run(make(world, 'csd'), column(-3, 0, 1, 3), texts=texts_of(world, 4))
    torch.testing.assert_close(g, torch.full_like(g, -0.5 * 1.0 / 0.625))  # -w sigma a (mu_y - mu_0) / V = -0.8
    scaled = run(make(world, 'csd', scale=7.5), column(-3, 0, 1, 3), texts=texts_of(world, 4))
    torch.testing.assert_close(scaled, 7.5 * g)


def test_t3_csd_finds_its_optimum_where_the_text_is_narrower(toy):
    world, x = toy(), column(*[0.0] * 64)
    texts = texts_of(world, 64, s0=0.5, s_null=2.0)
    for step in range(400):
        x = x - 0.5 * run(make(world, 'csd'), x, texts=texts, seed=step)
    assert x.mean().item() == pytest.approx((1 * 2.5 - 0 * 0.625) / (2.5 - 0.625), abs=0.1)  # 4 / 3


def test_t4_vsd_with_a_network_that_knows_x0_is_sds(toy):
    world, x0 = toy(), column(-2, 3)
    texts = texts_of(world, 2)
    vsd = run(make(world, 'vsd', scale=7.5, learned=Delta(world.schedule, x0)), x0, texts=texts)
    torch.testing.assert_close(vsd, run(make(world, 'sds', scale=7.5), x0, texts=texts))


def test_t4_vsd_before_it_learns_is_s_minus_1_times_csd(toy):
    world, x0 = toy(), column(-2, 3)
    texts = texts_of(world, 2)
    g = run(make(world, 'vsd', scale=7.5), x0, texts=texts)
    torch.testing.assert_close(g, torch.full_like(g, (7.5 - 1) * -0.8))  # -5.2
    assert run(make(world, 'vsd', scale=1.0), x0, texts=texts).abs().max() < 1e-12


def test_t4_vsd_keeps_the_spread_that_sds_loses(toy):
    """256 particles, their Gaussian refitted at each step, target N(1, .5^2)."""
    world = toy()
    texts = texts_of(world, 256)
    start = torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2

    class Fitted:
        x = start

        def __call__(self, noisy, t, conditioning):
            own = world.text(self.x.mean().item(), self.x.std().item(), 256)
            return world.model(noisy, t, [own])[0]

    fitted = Fitted()
    vsd, sds, lost = make(world, 'vsd', learned=fitted), make(world, 'sds'), start
    for step in range(600):
        fitted.x = fitted.x - 0.2 * run(vsd, fitted.x, texts=texts, seed=step)
        lost = lost - 0.02 * run(sds, lost, texts=texts, seed=step)
    assert fitted.x.std().item() == pytest.approx(0.5, abs=0.02)
    assert fitted.x.mean().item() == pytest.approx(1.0, abs=0.02)
    assert lost.std().item() < 0.1


def test_t6_ism_of_points_has_no_interval_term(toy):
    world = toy(CURVE)
    texts = texts_of(world, 3, mu=1.0, s0=0.0, mu_null=0.3, s_null=0.0)
    for t in (20, 500, 900):
        g = run(make(world, 'ism', scale=7.5, weight='residual'), column(-2, 0, 3), t, texts=texts)
        torch.testing.assert_close(g, torch.full_like(g, -7.5 * (1.0 - 0.3)), rtol=1e-3, atol=0)  # -5.25


def test_t6_two_steps_by_hand(toy, monkeypatch):
    world = toy([0.8**2, 0.6**2])
    texts = texts_of(world, mu=1.0, s0=0.5, mu_null=0.0, s_null=1.5)
    ism = make(world, 'ism', scale=7.5, weight='residual', interval=1)
    monkeypatch.setattr(ism, 'invert', lambda x0, until, context: column(1.9))
    g = run(ism, column(2.0), 1, texts=texts)
    f = 0.6 * 1.9 / (0.64 * 2.25 + 0.36)
    noisy = 0.6 * (1.9 - 0.6 * f) / 0.8 + 0.8 * f
    assert (f, noisy) == pytest.approx((0.633333, 1.646667), abs=1e-6)
    assert g.item() == pytest.approx(2.752158, abs=1e-5)


def test_t6_the_parts_by_hand(toy, monkeypatch):
    """g / w = s (eps_text - eps_empty)(x_t) + [eps_empty(x_t) - F], each by hand and by the network."""
    world = toy([0.8**2, 0.6**2])
    texts = texts_of(world, mu=1.0, s0=0.5, mu_null=0.0, s_null=1.5)
    noisy, t = column(1.646667), torch.tensor([1])
    text, empty = (e.item() for e in world.model(noisy, t, [texts.text, texts.empty]))
    assert (empty, text) == pytest.approx((0.908506, 1.147032), abs=1e-6)
    ism = make(world, 'ism', scale=7.5, interval=1)
    monkeypatch.setattr(ism, 'invert', lambda x0, until, context: column(1.9))
    assert run(ism, column(2.0), 1, texts=texts).item() == pytest.approx(2.064119, abs=1e-5)
    assert 7.5 * (text - empty) + 0.275172 == pytest.approx(2.064119, abs=1e-5)


@pytest.mark.parametrize('interval', [200, 100, 50])
def test_t6_the_interval_where_the_inversion_is_exact(toy, stable_diffusion_schedule, interval):
    """N(0, 1.5^2) is inverted exactly by x_s = x0 sqrt(V_s) / 1.5; the rest of the interval by hand."""
    abar = stable_diffusion_schedule.abar.double()
    (a_s, sigma_s), (a_t, sigma_t) = ((abar[i] ** 0.5, (1 - abar[i]) ** 0.5) for i in (500 - interval, 500))
    v_s, v_t = a_s**2 * 1.5**2 + sigma_s**2, a_t**2 * 1.5**2 + sigma_t**2
    x_s = 2.0 * v_s**0.5 / 1.5
    f = sigma_s * x_s / v_s
    x_t = a_t * (x_s - sigma_s * f) / a_s + sigma_t * f
    world = toy(abar.tolist())
    fine = make(world, 'ism', scale=1e-12, interval=interval, inversion_step=1)
    found = run(fine, column(2.0), 500, texts=texts_of(world, mu_null=0.0, s_null=1.5)).item()
    assert found == pytest.approx((sigma_t * x_t / v_t - f).item(), abs=2e-4)


def test_ism_inverts_under_the_empty_text_and_guides_away_from_the_negative_one(toy):
    world = toy(CURVE)
    plain = texts_of(world, mu_null=0.0, s_null=1.5)
    negative = dataclasses.replace(plain, unconditional=world.text(-1.0, 0.7))
    ism = make(world, 'ism', scale=7.5)
    without, against = (run(ism, column(2.0), 500, texts=texts) for texts in (plain, negative))
    assert (against - without).abs() > 0.1
    inverted = ism.invert(column(2.0), 450, plain.empty)
    s, t = torch.tensor([450]), torch.tensor([500])
    (f,) = world.model(inverted, s, [plain.empty])
    noisy = scores.ddim_step(world.schedule, inverted, s, t, f)
    text, uncond = world.model(noisy, t, [negative.text, negative.unconditional])
    torch.testing.assert_close(against, uncond + 7.5 * (text - uncond) - f)


def test_a_rescale_of_the_classifier_score_is_refused(toy):
    with pytest.raises(ValueError, match='guidance_rescale = 0.5.*score=csd'):
        make(toy(), 'csd', rescale=0.5)


def test_t6_ism_is_csd_and_an_interval_that_shrinks(toy):
    world = toy(CURVE)
    texts = texts_of(world, mu_null=0.0, s_null=1.5)
    parts = {}
    for interval in (200, 100, 50):
        without = make(world, 'ism', scale=1e-12, interval=interval)  # what is left is the interval
        parts[interval] = run(without, column(2.0), 500, texts=texts).item()
    assert parts[200] / parts[100] == pytest.approx(2, rel=0.1)
    assert parts[100] / parts[50] == pytest.approx(2, rel=0.1)


def test_t7_the_inversion_reaches_the_known_limit(toy, stable_diffusion_schedule):
    """x_t -> a mu + (x0 - mu) sqrt(V) / s0 as the steps shrink; 10, 50 and 500 steps by an independent script."""
    world = toy([1.0, *stable_diffusion_schedule.abar.double().tolist()[1:]])
    for step, expected in ((60, 1.98986), (12, 2.20010)):
        ism = make(world, 'ism', inversion_step=step)
        found = ism.invert(column(2.0), 600, world.text(1.0, 0.5)).item()
        assert found == pytest.approx(expected, abs=1e-4)
    fine = make(world, 'ism', inversion_step=1).invert(column(2.0), 600, world.text(1.0, 0.5)).item()
    assert 2.26411 < fine < 2.27652  # finer than the script's 500 steps, short of the limit


def test_t10_the_push_is_perpendicular_and_finite():
    main, negatives = torch.randn(3, 4, 8, 8), torch.randn(3, 2, 4, 8, 8)
    pushed = perpendicular_negatives(main, negatives)
    dots = (pushed * main[:, None]).flatten(2).sum(-1)
    norms = pushed.flatten(2).norm(dim=-1) * main.flatten(1).norm(dim=-1)[:, None]
    assert (dots / norms).abs().max() < 1e-6
    assert perpendicular_negatives(torch.zeros(1, 4, 8, 8), negatives[:1]).isfinite().all()


def test_t10_by_hand():
    main, negative = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.6, 0.8]).view(1, 1, 1, 1, 2)
    pushed = perpendicular_negatives(main, negative)[:, 0]
    assert (7.5 * (main - 1.5 * pushed)).flatten().tolist() == pytest.approx([7.5, 7.5 * -1.5 * 0.8])  # -9


@pytest.mark.parametrize(
    ('negatives', 'weights'),
    [([(3.0, 0.5), (-1.0, 2.0)], (0.0, 0.0)), ([(1.0, 0.5)], (-2.0,)), ([(0.0, 0.5)], (-2.0,))],
    ids=['weight 0', 'negative = positive', 'negative = empty'],
)
def test_t10_cases_that_equal_plain_guidance(toy, negatives, weights):
    world, x0 = toy(), column(-2, 3)
    plain = run(make(world, 'sds', scale=7.5), x0, texts=texts_of(world, 2))
    found = run(make(world, 'sds', scale=7.5), x0, texts=texts_of(world, 2, negatives=negatives, weights=weights))
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_t10_a_batch_equals_its_images_one_by_one(toy):
    world = toy(CURVE)
    x0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [[(1.0, 0.5), (0.0, 1.0), (2.0, 0.3), (-1.0, 0.7)], [(2.0, 0.4), (0.5, 2.0), (-3.0, 0.6), (0.3, 1.2)]]
    weights = torch.tensor([[-1.0, -0.3], [-0.2, -2.0]], dtype=torch.float64)
    t = torch.tensor([200, 700])

    def conditioning(index):
        text, null, *negatives = (torch.cat([world.text(*rows[i][k]) for i in index]) for k in range(4))
        return Conditioning(text, null, torch.stack(negatives, 1), weights[index])

    guider = Guider(scale=7.5, rescale=0.5)
    both = guider(world.model, x0, t, conditioning([0, 1])).guided
    for i in (0, 1):
        alone = guider(world.model, x0[i : i + 1], t[i : i + 1], conditioning([i])).guided
        torch.testing.assert_close(both[i : i + 1], alone)


@pytest.mark.parametrize(
    ('azimuth', 'threestudio', 'stable_dreamfusion'),
    [
        (0, (-0.0001, -1.574), (0, -2)),
        (45, (-0.6892, -0.6892), (-0.7358, -0.0135)),
        (135, (-1.7458, -0.1728), (-2, -0.0067)),
        (180, (-1.967, -0.394), (-2, -1)),
    ],
)
def test_t10_d16_published_weights(azimuth, threestudio, stable_dreamfusion):
    for style, expected in zip(PERP_NEG, (threestudio, stable_dreamfusion)):
        for angle in (azimuth, -azimuth):
            found = view_negative_weights(torch.tensor([float(angle)]), style)[0].tolist()
            assert found == pytest.approx(expected, abs=2e-4)


def test_t10_the_smooth_curve_hardly_jumps_at_the_side():
    before, after = view_negative_weights(torch.tensor([90.0, 90.001]), 'threestudio')
    assert (before - after).abs().max() < 6e-4


def test_t11_rescale_gives_the_standard_deviation_it_promises():
    text, guided = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8) * torch.tensor([2.0, 5.0, 9.0]).view(3, 1, 1, 1)
    for phi in (0.0, 0.3, 0.7, 1.0):
        found = rescale_guidance(guided, text, phi).flatten(1).std(dim=1)
        expected = phi * text.flatten(1).std(dim=1) + (1 - phi) * guided.flatten(1).std(dim=1)
        torch.testing.assert_close(found, expected)
    alone = torch.cat([rescale_guidance(guided[i : i + 1], text[i : i + 1], 0.7) for i in range(3)])
    torch.testing.assert_close(rescale_guidance(guided, text, 0.7), alone)


def test_t11_rescale_is_the_identity_at_scale_1(toy):
    world, x0 = toy(), torch.randn(2, 4, 4, 4, dtype=torch.float64)
    plain = run(make(world, 'sds'), x0, texts=texts_of(world, 2))
    torch.testing.assert_close(run(make(world, 'sds', rescale=0.7), x0, texts=texts_of(world, 2)), plain)


@pytest.mark.parametrize('kind', ['sds', 'csd', 'ism', 'vsd'])
@pytest.mark.parametrize('speaks', ['v_prediction', 'sample'])
def test_t12_prediction_types_agree_for_every_score(toy, kind, speaks):
    x0 = column(-2, 0.5, 3)
    found = []
    for language in ('epsilon', speaks):
        world = toy(CURVE, speaks=language)
        texts = texts_of(world, 3, negatives=[(2.0, 0.4)], weights=(-0.5,))
        found.append(run(make(world, kind, scale=7.5), x0, 400, texts=texts))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('kind', 't', 'rows'),
    [('sds', 500, 2), ('csd', 500, 2), ('ism', 500, 3 + 3), ('ism', 980, 5 + 3), ('ism', 20, 1 + 3), ('vsd', 500, 3)],
)
@pytest.mark.parametrize('perp_neg', [0, 2])
def test_t17_rows_per_image(toy, kind, t, rows, perp_neg):
    world = toy(CURVE)
    texts = texts_of(world, 2, negatives=[(2.0, 0.4)] * perp_neg, weights=(-0.5,) * perp_neg)
    run(make(world, kind, **({'interval': 80} if kind == 'ism' else {})), column(-2, 3), t, texts=texts)
    assert world.network.rows == 2 * (rows + perp_neg)


@pytest.mark.parametrize(('kind', 'change'), [('sds', 1.0), ('csd', 0.0), ('vsd', 0.0)])
def test_t18_a_constant_added_to_every_row(toy, kind, change):
    x0, shift, found = column(-2, 3), 0.25, []
    for constant in (0.0, shift):
        world = toy(CURVE, shift=constant)
        found.append(run(make(world, kind, scale=7.5), x0, 500, texts=texts_of(world, 2)))
    torch.testing.assert_close(found[1] - found[0], torch.full_like(x0, change * shift))


@pytest.mark.parametrize('kind', ['sds', 'csd', 'ism', 'vsd'])
def test_t16_same_seed_same_gradient(toy, kind):
    world, x0 = toy(CURVE), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    texts = texts_of(world, 2)
    first = run(make(world, kind, scale=3.0), x0, 400, texts=texts, seed=4)
    torch.randn(5)
    assert torch.equal(run(make(world, kind, scale=3.0), x0, 400, texts=texts, seed=4), first)


@pytest.mark.parametrize('option', ['interval', 'inversion_step'])
def test_bad_options_of_ism_are_refused(toy, option):
    with pytest.raises(ValueError, match=f'ism_{option}'):
        make(toy(), 'ism', **{option: 0})
