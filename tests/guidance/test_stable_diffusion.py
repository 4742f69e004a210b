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

"""The guidance on a tiny Stable Diffusion of random weights: sizes, gradients, switches, precisions."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from guidance.small_steps import PROMPTS, loss, parameters_of, prepared
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.modules.guidance.distillation.csd import ClassifierScoreDistillation
from nemo_dreamfusion.modules.guidance.distillation.ism import IntervalScoreMatching
from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.prompts import PromptOptions
from nemo_dreamfusion.modules.guidance.timesteps import SqrtTimesteps, UniformTimesteps
from nemo_dreamfusion.parts.types import PromptSet

ANNEALED = UniformTimesteps(max_step_ratio=[0.2, 0.98, 0.2, 0.8])


@pytest.fixture(scope='module')
def guidance(sd_folder):
    return prepared(sd_folder, timesteps=ANNEALED)


def test_sizes_come_from_the_model(guidance):
    assert (guidance.latent_size, guidance.image_size) == (8, 32)


@pytest.mark.parametrize('size', [32, 48, 16])
@pytest.mark.parametrize('latent', [True, False])
def test_gradients_reach_the_image_at_any_render_size(guidance, render_of, cameras_at, latent, size):
    render = render_of(2, size)
    output = loss(guidance, render, cameras_at(), latent=latent)
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and output.loss.ndim == 0
    assert output.timesteps.shape == (2,) and output.timesteps.dtype == torch.int64
    assert render.image.grad.isfinite().all() and (render.image.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_gradients_reach_normals_and_opacity(sd_folder, render, cameras):
    guidance = prepared(sd_folder, latents=LatentOptions(latent_map='normal_opacity'))
    assert guidance.needs_normals(latent=True) and not guidance.needs_normals(latent=False)
    loss(guidance, render, cameras).loss.backward()
    assert render.image.grad is None
    for grad in (render.normals.grad, render.opacity.grad):
        assert (grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_no_parameter_gets_a_gradient(guidance, render, cameras):
    loss(guidance, render, cameras, latent=False).loss.backward()
    parameters = parameters_of(guidance)
    assert len(parameters) > 50
    assert all(p.grad is None and not p.requires_grad for p in parameters)


def test_the_loss_and_the_gradient_norm_are_raw(guidance, render, cameras):
    output = loss(guidance, render, cameras)
    x0 = guidance.latents(render, latent=True, generator=None)
    x0.retain_grad()
    g = guidance.score.gradient(
        x0.detach(),
        output.timesteps,
        guidance.embeddings.conditioning(cameras),
        model=guidance.noise_model,
        mixing=guidance.mixing,
        generator=_after_times(torch.Generator().manual_seed(0)),
    )
    torch.testing.assert_close(output.loss, 0.5 * (g**2).sum() / 2, rtol=1e-3, atol=0)
    torch.testing.assert_close(output.gradient_norm, g.flatten(1).norm(dim=1).mean())
    assert not output.gradient_norm.requires_grad


def _after_times(generator):
    torch.randint(0, 10, (2,), generator=generator)
    return generator


@pytest.mark.parametrize('latent', [True, False])
def test_same_generator_state_same_loss(sd_folder, render, cameras, latent):
    guidance = prepared(sd_folder, latents=LatentOptions(sample_posterior=True))
    first = loss(guidance, render, cameras, latent=latent, seed=5)
    torch.randn(3)
    again = loss(guidance, render, cameras, latent=latent, seed=5)
    other = loss(guidance, render, cameras, latent=latent, seed=6)
    assert torch.equal(first.loss, again.loss) and torch.equal(first.timesteps, again.timesteps)
    assert first.loss != other.loss


def test_the_posterior_is_sampled_only_when_asked(sd_folder, render):
    image = render.image.detach()
    guidance = prepared(sd_folder)
    drawn = guidance.encode(image, torch.Generator().manual_seed(0))
    assert not torch.equal(drawn, guidance.encode(image))
    assert torch.equal(guidance.encode(image), guidance.encode(image))


def test_the_encoding_is_that_of_diffusers(guidance, sd_folder, render):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(sd_folder, subfolder='vae')
    with torch.no_grad():
        theirs = vae.encode(render.image.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
        torch.testing.assert_close(guidance.encode(render.image), theirs)


def test_time_schedule_follows_the_progress(guidance, render, cameras):
    late = [loss(guidance, render, cameras, progress=1.0, seed=i).timesteps.max().item() for i in range(20)]
    early = [loss(guidance, render, cameras, progress=0.0, seed=i).timesteps.max().item() for i in range(20)]
    assert max(late) <= 200 < max(early)


def test_prompts_are_encoded_once_and_the_text_encoder_is_freed(sd_folder, monkeypatch):
    guidance = HuggingFaceGuidance(source=str(sd_folder))
    loaded, load = [], guidance.weights.text_encoder
    calls = {'unet': 0}
    load_unet = guidance.weights.unet

    def text_encoder(dtype):
        model = load(dtype)
        loaded.append(weakref.ref(model))
        return model

    def unet(dtype):
        calls['unet'] += 1
        return load_unet(dtype)

    monkeypatch.setattr(guidance.weights, 'text_encoder', text_encoder)
    monkeypatch.setattr(guidance.weights, 'unet', unet)
    for _ in range(3):
        guidance.prepare(PROMPTS, 'cpu')
    gc.collect()
    assert len(loaded) == 1 and loaded[0]() is None
    modules = [m for value in vars(guidance).values() if isinstance(value, torch.nn.Module) for m in value.modules()]
    assert modules and not any('CLIPText' in type(module).__name__ for module in modules)
    guidance.prepare(PromptSet('a blue sphere'), 'cpu')  # another prompt needs the text encoder again, nothing else
    assert len(loaded) == 2 and calls['unet'] == 1


def test_v_prediction_is_read_from_the_scheduler(build_sd, tmp_path, guidance, render, cameras):
    v = prepared(
        build_sd(tmp_path / 'v', prediction_type='v_prediction'),
        timesteps=ANNEALED,
    )
    assert v.schedule.prediction_type == 'v_prediction'
    assert loss(v, render, cameras).loss != loss(guidance, render, cameras).loss
    with refusal('prediction_type', 'edm', 'v_prediction'):
        prepared(build_sd(tmp_path / 'x', prediction_type='edm'))


def test_local_files_only_reaches_the_model_that_debiases(sd_folder, monkeypatch):
    asked = []

    def likelihood(source, *, local_files_only):
        asked.append((source, local_files_only))
        return lambda text: (0.25, 0.25, 0.25, 0.25)

    monkeypatch.setattr('nemo_dreamfusion.modules.guidance.stable_diffusion.ViewLikelihood', likelihood)
    for local in (True, False):
        prepared(sd_folder, local_files_only=local, prompts=PromptOptions(debias='some/bert'))
    assert asked == [('some/bert', True), ('some/bert', False)]


def test_views_and_negative_prompt_change_the_loss(sd_folder, guidance, render, cameras_at):
    front, back = (loss(guidance, render, cameras_at(azimuth=(a, a))).loss for a in (0.0, 180.0))
    negative = prepared(
        sd_folder,
        PromptSet('a red cube', negative='bad'),
        timesteps=ANNEALED,
    )
    assert front != back
    assert loss(negative, render, cameras_at(azimuth=(0.0, 0.0))).loss != front


def test_the_guidance_scale_follows_the_progress(sd_folder, render, cameras):
    scheduled = prepared(sd_folder, mixing=GuidanceMixing(guidance_scale=[0.5, 9.0, 3.0, 1.0]))
    for progress, scale in ((0.2, 9.0), (0.75, 6.0), (1.0, 3.0)):
        constant = prepared(sd_folder, mixing=GuidanceMixing(guidance_scale=scale))
        found, expected = (loss(g, render, cameras, progress=progress) for g in (scheduled, constant))
        assert found.loss == expected.loss


def test_clipping_bounds_the_gradient(sd_folder, render, cameras):
    clipped = prepared(sd_folder, score=ScoreDistillationSampling(grad_clip=[0.0, 0.01, 0.02, 1.0]))
    assert loss(clipped, render, cameras).gradient_norm <= 0.01 * (4 * 8 * 8) ** 0.5 + 1e-6


@pytest.fixture(scope='module')
def masked_language_model(tmp_path_factory):
    """A small BERT of random weights that knows the words of the prompts."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder = tmp_path_factory.mktemp('bert')
    words = 'this image is depicting a view of front side back overhead red blue cube dragon'.split()
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words]
    BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 16}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokens), initializer_range=1.0, **sizes))
    model.cls.predictions.decoder.weight.data.mul_(3.0)  # opinions that are strong enough to drop words
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    'changed',
    [
        {'mixing': GuidanceMixing(guidance_scale=50.0)},
        {'mixing': GuidanceMixing(guidance_rescale=0.5)},
        {'mixing': GuidanceMixing(perp_neg='threestudio')},
        {'mixing': GuidanceMixing(perp_neg='stable_dreamfusion')},
        {'score': ClassifierScoreDistillation()},
        {'score': IntervalScoreMatching()},
        {'score': ScoreDistillationSampling(weighting='fantasia3d')},
        {'score': ScoreDistillationSampling(grad_clip=0.1)},
        {'prompts': PromptOptions(view_blend_deg=[50.0, 60.0])},
        {'prompts': PromptOptions(overhead_elevation_deg=[10.0, 20.0])},
        {'prompts': 'debias'},  # with the folder above
        {'timesteps': SqrtTimesteps()},
        {'timesteps': UniformTimesteps(max_step_ratio=0.2)},
        {'timesteps': UniformTimesteps(min_step_ratio=0.9)},
        {'latents': LatentOptions(sample_posterior=True)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_no_option_is_idle(sd_folder, render_of, cameras_at, masked_language_model, changed):
    given = (render_of(2), cameras_at(azimuth=(40.0, 100.0), elevation=(15.0, 15.0)))
    if changed.get('prompts') == 'debias':
        changed = {'prompts': PromptOptions(debias=str(masked_language_model))}
    results = []
    for options in ({}, changed):
        guidance = prepared(sd_folder, PromptSet('a red dragon'), **options)
        results.append(loss(guidance, *given, latent=False).loss.item())
    assert all(map(math.isfinite, results)) and results[0] != results[1]


@pytest.mark.parametrize(
    ('kind', 'group', 'option', 'value', 'way_out'),
    [
        (ScoreDistillationSampling, 'score', 'weighting', 'w', 'fantasia3d'),
        (ScoreDistillationSampling, 'score', 'grad_clip', -1, 'at least 0'),
        (LatentOptions, 'latents', 'latent_map', 'rgb', 'linear'),
        (GuidanceMixing, 'mixing', 'guidance_scale', -1, 'greater than 0'),
        (GuidanceMixing, 'mixing', 'guidance_scale', [0.5, 7.5, 0, 1], '[start, from, to, end]'),
        (GuidanceMixing, 'mixing', 'guidance_rescale', 2, 'at most 1'),
        (GuidanceMixing, 'mixing', 'perp_neg', 'mine', 'threestudio'),
        (NetworkOptions, 'networks', 'attention', 'fast', 'flash'),
        (NetworkOptions, 'networks', 'precision', 'auto16', 'auto'),
        (NetworkOptions, 'networks', 'compile', 'fast', 'inductor'),
        (NetworkOptions, 'networks', 'cuda_graphs', 'always', 'auto'),
        (PromptOptions, 'prompts', 'overhead_elevation_deg', 100, '[first, last]'),
        (PromptOptions, 'prompts', 'view_blend_deg', [90, 0], '[first, last]'),
    ],
)
def test_bad_options_are_refused_by_their_whole_key(kind, group, option, value, way_out):
    with refusal(f'model.guidance.{group}.{option}', NO_VALUE, way_out):
        kind(**{option: value})


def test_renders_that_are_not_square_are_refused(guidance, render, cameras):
    import dataclasses

    wide = dataclasses.replace(render, image=render.image[:, :16])
    with refusal('renders', NO_VALUE, 'square'):
        loss(guidance, wide, cameras)
