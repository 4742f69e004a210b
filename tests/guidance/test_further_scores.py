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

"""SDI, ASD, SDS-Bridge, RFDS and RFDS-Rev in Gaussian worlds, where their gradients are formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from guidance.toy_scores import CURVE, HALF, column, make
from refusals import refusal
from small_diffusion import WORDS

from nemo_dreamfusion.modules.guidance.distillation.bridge import FAULTS, BridgeScore
from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.prompts import PromptEmbeddings, PromptOptions
from nemo_dreamfusion.parts.types import PromptSet

FLOW = torch.linspace(0.001, 0.999, 1000, dtype=torch.float64).tolist()
CERTAIN = {'eta': 0.0, 'overshoot': 0.0}  # SDI without its random parts


def noise_of(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


# SDI


def test_one_step_of_inversion_by_hand(toy):
    """k is the noise that the network sees in the clean latents, guided by -3; x_t = a x0 + sigma k."""
    world = toy([0.9**2, 0.6**2])
    a, sigma = 0.6, 0.8
    clean = {mu: (1 - 0.81) ** 0.5 * (2.0 - 0.9 * mu) / (0.81 * 0.25 + 0.19) for mu in (0.0, 1.0)}
    k = clean[0.0] - 3 * (clean[1.0] - clean[0.0])
    noisy = a * 2.0 + sigma * k
    text, empty = (sigma * (noisy - a * mu) / (a**2 * 0.25 + sigma**2) for mu in (1.0, 0.0))
    expected = sigma / a * (empty + 7.5 * (text - empty) - k)
    sdi = make(world, 'sdi', scale=7.5, weighting='residual', inversion_scale=-3.0, inversion_steps=1, **CERTAIN)
    assert sdi.gradient(column(2.0), 1, texts=world.texts()).item() == pytest.approx(expected)


def test_sdi_where_the_inversion_is_exact(toy, stable_diffusion_schedule):
    """x_t = a mu + (x0 - mu) sqrt(V) / s0 (the flow of a Gaussian), so k and the prediction are formulas."""
    schedule = stable_diffusion_schedule
    world = toy([1.0, *(schedule.a.double() ** 2).tolist()[1:]])
    a, sigma = schedule.a[600].item(), schedule.sigma[600].item()
    mu, s0, x0, v = 1.0, 0.5, 2.0, a**2 * 0.25 + sigma**2
    noisy = a * mu + (x0 - mu) * v**0.5 / s0
    expected = sigma * (noisy - a * mu) / v - (noisy - a * x0) / sigma
    sdi = make(world, 'sdi', inversion_scale=1.0, inversion_steps=1000, **CERTAIN)
    texts = world.texts(mu=mu, s0=s0)
    assert sdi.gradient(column(x0), 600, texts=texts).item() == pytest.approx(expected, rel=0.01)
    assert sdi.gradient(column(mu), 600, texts=texts).abs() < 1e-9  # the data's centre needs no change


def test_noise_added_to_the_inverted_one_spreads_the_gradient(toy):
    """g depends on k by dg/dk = w (sigma^2 / V - 1) at scale 1, and eta sigma is the added noise's deviation."""
    world, x0 = toy(CURVE), torch.full((20000, 1, 1, 1), 2.0, dtype=torch.float64)
    a, sigma = world.schedule.a[500].item(), world.schedule.sigma[500].item()
    options = {'inversion_scale': 1.0, 'inversion_steps': 4, 'overshoot': 0.0}
    texts = world.texts(20000)
    without, random = (make(world, 'sdi', eta=eta, **options).gradient(x0, 500, texts=texts) for eta in (0.0, 0.3))
    slope = a**2 * 0.25 / (a**2 * 0.25 + sigma**2)
    assert random.std().item() == pytest.approx(0.3 * sigma * slope, rel=0.03)
    assert random.mean().item() == pytest.approx(without.mean().item(), abs=0.01) and without.std() < 1e-9


def test_the_inversion_ends_up_to_a_thirtieth_beyond_t(toy):
    sdi = make(toy(CURVE), 'sdi').score
    generator = torch.Generator().manual_seed(0)
    ends = [sdi._end_of_inversion(500, 1000, generator) for _ in range(2000)]
    assert min(ends) == 500 and max(ends) == 533 and sum(ends) / 2000 == pytest.approx(516.7, abs=1)
    assert max(sdi._end_of_inversion(990, 1000, generator) for _ in range(100)) == 999


@pytest.mark.parametrize(('t', 'rows'), [(20, 2 * 1 + 2), (500, 2 * 5 + 2), (980, 2 * 9 + 2)])
def test_rows_of_sdi(toy, t, rows):
    world = toy(CURVE)
    make(world, 'sdi').gradient(column(-2, 3), t, texts=world.texts(2))
    assert world.network.rows == 2 * rows


# ASD


def test_asd_without_a_shift_is_s_minus_1_times_csd(toy):
    world = toy()
    g = make(world, 'asd', scale=7.5, shift=0.0).gradient(column(-2, 3), texts=world.texts(2))
    torch.testing.assert_close(g, torch.full_like(g, (7.5 - 1) * -0.8))


def test_the_shifted_prediction_takes_the_noise_out(toy):
    """Of a point of data eps = noise + a / sigma (x0 - mu): the noise cancels, and one of 50 values per shift is left."""
    world, x0 = toy(CURVE), torch.full((4000, 1, 1, 1), 3.0, dtype=torch.float64)
    texts = world.texts(4000, mu=1.0, s0=0.0, mu_null=1.0, s_null=0.0)
    g = make(world, 'asd').gradient(x0, 520, texts=texts).flatten()
    ratio = world.schedule.a / world.schedule.sigma
    values = (3.0 - 1.0) * (ratio[520] - ratio[520:570])  # shifts 0 ... 0.1 (520 - 20) - 1, all equally likely
    nearest = (g[:, None] - values).abs().min(1)
    assert nearest.values.max() < 1e-9 and nearest.indices.unique().tolist() == list(range(50))
    assert g.mean().item() == pytest.approx(values.mean().item(), rel=0.05)


def test_shifts_stay_within_the_schedule(toy):
    asd = make(toy(CURVE), 'asd', shift=1.0).score
    t = torch.tensor([0, 20, 21, 999]).repeat(100)
    later = asd.shifted(t, 1000, torch.Generator().manual_seed(0))
    assert (later >= t).all() and (later[t <= 21] == t[t <= 21]).all() and later.max() == 999


def test_views_of_one_object_share_a_shift(toy):
    asd = make(toy(CURVE), 'asd').score
    asd.views = 4
    later = asd.shifted(torch.full((40,), 900), 1000, torch.Generator().manual_seed(0)).view(10, 4)
    assert (later == later[:, :1]).all() and len(later[:, 0].unique()) > 5


# SDS-Bridge


def bridged(world, *, mu=-0.5, batch=2, **others):
    return dataclasses.replace(world.texts(batch, **others), faulty=world.text(mu, 0.5, batch))


def test_the_bridge_is_sds_until_it_is_switched_on(toy):
    world, x0 = toy(), column(-2, 3)
    bridge = make(world, 'bridge', scale=7.5, start=0.8)
    sds = make(world, 'sds', scale=7.5).gradient(x0, texts=world.texts(2))
    for progress in (0.0, 0.79):
        bridge.score.start_step(progress)
        torch.testing.assert_close(bridge.gradient(x0, texts=bridged(world)), sds)
    for progress in (0.8, 1.0):
        bridge.score.start_step(progress)
        found = bridge.gradient(x0, texts=bridged(world))
        torch.testing.assert_close(found, torch.full_like(found, 7.5 * -0.5 * (1.0 + 0.5) / 0.625))


def test_neither_negative_prompt_nor_perp_neg_acts_on_the_bridge(toy):
    world, x0 = toy(), column(-2, 3)
    bridge = make(world, 'bridge', scale=7.5, start=0.0)
    plain = bridge.gradient(x0, texts=bridged(world))
    other = dataclasses.replace(
        bridged(world, negatives=[(3.0, 0.5)], weights=(-2.0,)), unconditional=world.text(9.0, 0.5, 2)
    )
    torch.testing.assert_close(bridge.gradient(x0, texts=other), plain)


def test_words_for_faults_join_each_views_text(cameras_at):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return torch.arange(float(len(texts))).view(-1, 1, 1)

    options = {'options': PromptOptions()}
    cameras = cameras_at(azimuth=(0.0, 45.0, 180.0), elevation=(0.0,) * 3)
    texts = PromptEmbeddings.encode(PromptSet('a duck', 'ugly'), encode, fault_words='blurry', **options)
    assert asked[:4] == [f'a duck, {view} view, blurry' for view in ('front', 'side', 'back', 'overhead')]
    found = texts.conditioning(cameras)
    assert found.faulty.flatten().tolist() == [0.0, 0.5, 2.0] and found.text.flatten().tolist() == [4.0, 4.5, 6.0]
    assert found.unconditional.flatten().tolist() == [8.0] * 3
    asked.clear()
    assert PromptEmbeddings.encode(PromptSet('a duck'), encode, **options).conditioning(cameras).faulty is None


def test_words_that_a_closed_model_does_not_know_are_refused(closed_folder):
    guidance = HuggingFaceGuidance(source=str(closed_folder), score=BridgeScore())
    with refusal('model.guidance.score.fault_words', FAULTS, 'to words that it knows'):
        guidance.check_prompts(PromptSet('a red cube'))
    known = HuggingFaceGuidance(source=str(closed_folder), score=BridgeScore(fault_words=WORDS[0]))
    known.check_prompts(PromptSet('a red cube'))


def test_the_guidance_switches_the_bridge_on_late(sd_folder, cameras, render):
    """Its gradient is that of SDS before, and that of a classifier score with the faulty text after."""
    found = {}
    for name, score in (('sds', ScoreDistillationSampling()), ('bridge', BridgeScore(fault_words='bad'))):
        guidance = HuggingFaceGuidance(source=str(sd_folder), score=score)
        guidance.prepare(PromptSet('a red cube'), 'cpu')
        for progress in (0.3, 0.9):
            generator = torch.Generator().manual_seed(1)
            out = guidance.loss(render, cameras, step=0, progress=progress, latent=True, generator=generator)
            found[name, progress] = torch.autograd.grad(out.loss, render.image)[0]
    assert torch.equal(found['bridge', 0.3], found['sds', 0.3])
    assert (found['bridge', 0.9] - found['sds', 0.9]).norm() > 0.1 * found['sds', 0.9].norm()
    plain, faulty = (
        guidance.embeddings.conditioning(cameras).text,
        guidance.embeddings.conditioning(cameras).faulty,
    )
    assert faulty.shape == plain.shape and not torch.allclose(faulty, plain)


def test_a_rescale_of_the_bridge_is_refused(toy):
    with refusal('model.guidance.mixing.guidance_rescale', 0.5, 'model.guidance.mixing.guidance_rescale=0'):
        make(toy(), 'bridge', rescale=0.5)


# RFDS and RFDS-Rev


@pytest.mark.parametrize('t', [100, 500, 900])
def test_rfds_compares_velocities(toy, t):
    """v_guided - (noise - x0), each velocity by its own definition, in a flow between data and noise."""
    world, x0 = toy(flow=FLOW), column(-2, 0.5, 3)
    g = make(world, 'rfds', scale=7.5).gradient(x0, t, texts=world.texts(3), seed=5)
    noise, sigma = noise_of(5, x0.shape), FLOW[t]
    noisy = (1 - sigma) * x0 + sigma * noise
    velocities = []
    for mu in (1.0, 0.0):
        eps = sigma * (noisy - (1 - sigma) * mu) / ((1 - sigma) ** 2 * 0.25 + sigma**2)
        velocities.append(eps - (noisy - sigma * eps) / (1 - sigma))
    text, empty = velocities
    torch.testing.assert_close(g, empty + 7.5 * (text - empty) - (noise - x0))


def test_mean_of_rfds(toy):
    world, x0 = toy(flow=FLOW), torch.full((20000, 1, 1, 1), 3.0, dtype=torch.float64)
    g = make(world, 'rfds').gradient(x0, 600, texts=world.texts(20000))
    sigma = FLOW[600]
    variance = (1 - sigma) ** 2 * 0.25 + sigma**2
    assert g.mean().item() == pytest.approx(sigma * (3.0 - 1.0) / variance, abs=0.01)


def test_rfds_rev_moves_the_noise_by_the_papers_step(toy):
    """noise + (1 - sigma) (v_text + x0 - noise), then RFDS with it."""
    world, x0, t = toy(flow=FLOW), column(-2, 0.5, 3), 700
    texts = world.texts(3)
    g = make(world, 'rfds_rev', scale=7.5).gradient(x0, t, texts=texts, seed=5)
    noise, sigma = noise_of(5, x0.shape), FLOW[t]
    (text,) = world.model.outputs((1 - sigma) * x0 + sigma * noise, torch.full((3,), t), [texts.text])
    moved = noise + (1 - sigma) * (text + x0 - noise)
    text, empty = world.model.outputs(
        (1 - sigma) * x0 + sigma * moved, torch.full((3,), t), [texts.text, texts.unconditional]
    )
    torch.testing.assert_close(g, empty + 7.5 * (text - empty) - (moved - x0))


def test_rfds_rev_is_rfds_with_less_noise(toy):
    """Where the text alone is guided, a Gaussian's gradient is sigma^2 / V times that of RFDS from the same noise."""
    world, x0, t = toy(flow=FLOW), column(-2, 0.5, 3), 400
    rfds, rev = (make(world, kind).gradient(x0, t, texts=world.texts(3), seed=2) for kind in ('rfds', 'rfds_rev'))
    sigma = FLOW[t]
    torch.testing.assert_close(rev, rfds * sigma**2 / ((1 - sigma) ** 2 * 0.25 + sigma**2))


def test_rfds_of_a_variance_preserving_model_is_sds_by_a(toy):
    world, x0 = toy(), column(-2, 3)
    rfds, sds = (make(world, kind, scale=7.5).gradient(x0, texts=world.texts(2)) for kind in ('rfds', 'sds'))
    torch.testing.assert_close(rfds, sds / HALF)
