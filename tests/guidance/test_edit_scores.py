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

"""DDS and PDS in Gaussian worlds, where their gradients are formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from guidance.toy_scores import CURVE, column, make
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.modules.guidance.distillation.dds import DeltaDenoisingScore
from nemo_dreamfusion.modules.guidance.distillation.pds import PosteriorDistillationSampling
from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.guidance_mixing import EditSource
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.parts.types import PromptSet, RenderOutput


def editing(world, x_source, *, mu=1.0, mu_source=-0.5):
    """The texts of an edit from N(mu_source, .25) at x_source to N(mu, .25)."""
    texts, before = (world.texts(len(x_source), mu=value) for value in (mu, mu_source))
    return dataclasses.replace(texts, source=EditSource(x_source, before))


def test_dds_by_hand(toy):
    """Equal widths: g = w sigma a / V ((x - x_source) - s (mu - mu_source)); the noise cancels exactly."""
    world = toy()
    texts = editing(world, column(2.0))
    found = [make(world, 'dds', scale=7.5).gradient(column(3.0), texts=texts, seed=seed).item() for seed in (0, 1)]
    assert found == pytest.approx([0.5 / 0.625 * ((3 - 2) - 7.5 * (1 + 0.5))] * 2)  # -8.2


def test_dds_converges_to_the_source_moved_by_what_the_texts_differ_in(toy):
    world, x = toy(), column(2.0)
    texts, dds = editing(world, column(2.0)), make(world, 'dds', scale=7.5)
    for step in range(60):
        x = x - 0.5 * dds.gradient(x, texts=texts, seed=step)
    assert x.item() == pytest.approx(2.0 + 7.5 * 1.5, abs=1e-6)


@pytest.mark.parametrize('kind', ['dds', 'pds'])
def test_nothing_changes_where_neither_object_nor_text_has(toy, kind):
    world, x = toy(CURVE), column(2.0, -1.0)
    texts = editing(world, x, mu=0.3, mu_source=0.3)
    assert make(world, kind, scale=7.5).gradient(x, 500, texts=texts).abs().max() == 0


@pytest.mark.parametrize('kind', ['dds', 'pds'])
def test_a_constant_error_of_the_network_cancels(toy, kind):
    right, wrong = toy(CURVE), toy(CURVE, shift=0.7)
    x, source = column(3.0), column(2.0)
    g, same = (make(w, kind, scale=7.5).gradient(x, 500, texts=editing(w, source)) for w in (right, wrong))
    torch.testing.assert_close(g, same)


def test_pds_is_the_difference_of_the_stochastic_latents(toy):
    """z = (x_s - mu) / d with all its noises, term by term as in the paper's equations."""
    world, t, stride = toy(CURVE), 500, 3
    abar = world.schedule.a.double() ** 2
    alpha, earlier = abar[t] / abar[t - 1], abar[t - stride]
    beta = 1 - alpha
    deviation = ((1 - earlier) / (1 - abar[t]) * beta).sqrt()
    noise, other = (torch.randn(1, 1, 1, 1, generator=torch.Generator().manual_seed(s)).double() for s in (0, 9))

    def latent(x0, mu):
        noisy = abar[t].sqrt() * x0 + (1 - abar[t]).sqrt() * noise
        found = (1 - abar[t]).sqrt() * (noisy - abar[t].sqrt() * mu) / (abar[t] * 0.25 + 1 - abar[t])
        clean = (noisy - (1 - abar[t]).sqrt() * found) / abar[t].sqrt()
        mean = earlier.sqrt() * beta / (1 - abar[t]) * clean
        mean = mean + alpha.sqrt() * (1 - earlier) / (1 - abar[t]) * noisy
        return (earlier.sqrt() * x0 + (1 - earlier).sqrt() * other - mean) / deviation

    expected = latent(column(3.0), 1.0) - latent(column(2.0), -0.5)
    pds = make(world, 'pds', stride=stride)
    torch.testing.assert_close(pds.gradient(column(3.0), t, texts=editing(world, column(2.0))), expected)


def test_pds_of_a_single_step_is_dds_by_another_weight_and_of_more_pulls_back(toy):
    world = toy(CURVE)
    times = torch.tensor([20, 500, 900])
    psi, chi = PosteriorDistillationSampling(stride=1).coefficients(world.schedule, times)
    assert psi.abs().max() < 1e-6 < chi.min()
    pulls = [PosteriorDistillationSampling(stride=k).coefficients(world.schedule, times)[0] for k in (2, 10)]
    assert (pulls[0] > 0).all() and (pulls[1] > pulls[0]).all()


@pytest.mark.parametrize('kind', ['dds', 'pds'])
@pytest.mark.parametrize('t', [0, 1, 999])
def test_the_ends_of_the_schedule(toy, kind, t):
    world = toy(CURVE)
    assert make(world, kind).gradient(column(3.0), t, texts=editing(world, column(2.0))).isfinite().all()


def test_scores_and_texts_of_an_edit_belong_together():
    source = {'source': 'pocket'}
    plain, edit = PromptSet('a blue cube'), PromptSet('a blue cube', source='a red cube')
    with refusal('model.edit.source_prompt', None, "model.edit.source_prompt='a red cube'"):
        HuggingFaceGuidance(score=DeltaDenoisingScore(), **source).check_prompts(plain)
    with refusal('model.guidance.score', 'ScoreDistillationSampling', 'dreamfusion-edit'):
        HuggingFaceGuidance(score=ScoreDistillationSampling(), **source).check_prompts(edit)
    with refusal('model.edit.source_prompt', NO_VALUE, 'cube'):
        unknown = PromptSet('a blue cube', source='a red cubee')
        HuggingFaceGuidance(score=DeltaDenoisingScore(), **source).check_prompts(unknown)
    HuggingFaceGuidance(score=DeltaDenoisingScore(), **source).check_prompts(edit)


def test_the_texts_before_an_edit_keep_the_words_of_the_views():
    texts = PromptSet('a blue cube', front='a blue cube, seen from the front', source='a red cube', negative='fog')
    assert texts.before().by_view()['front'] == 'a red cube, front view'
    assert texts.before().negative == 'fog' and not texts.before().source


@pytest.mark.parametrize('share', [0.3, 0.8])
def test_words_are_compared_at_one_noisy_picture_as_the_network_sees_it(share):
    cameras = cameras_from_orbit(*torch.tensor([[0.0, 90], [10, 10], [3.2, 3.2], [36, 36]]), 64, 64)
    image = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    render = RenderOutput(image, torch.ones(2, 64, 64, 1), torch.ones(2, 64, 64, 1), None)
    guidance = HuggingFaceGuidance(score=DeltaDenoisingScore(), source='pocket')
    found = {}
    for source in ('a red cube', 'a blue cube'):
        guidance.prepare(PromptSet('a blue cube', source=source), 'cpu')
        generator = torch.Generator().manual_seed(1)
        found[source] = guidance.compare_words(render, cameras, share=share, generator=generator)
    assert found['a blue cube'].abs().max() == 0  # the same words
    guidance.prepare(PromptSet('a blue cube', source='a red cube'), 'cpu')
    x0 = guidance.latents(render, latent=False)
    t = torch.full((2,), int(share * 999))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    noisy = guidance.schedule.add_noise(x0, noise, t)
    texts = [e.conditioning(cameras).text for e in (guidance.embeddings, guidance.source_embeddings)]
    after, before = (guidance.noise_model(noisy, t, [text])[0] for text in texts)
    torch.testing.assert_close(found['a red cube'], after - before, rtol=1e-3, atol=1e-5)
    assert found['a red cube'].abs().max() > 0.01
