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

"""Each family against its own pipeline in diffusers: prediction under guidance, and the gradient of the render."""

from __future__ import annotations

import json
import math

import pytest
import torch
from guidance.conftest import make_cameras, make_render
from guidance.small_steps import loss, prepared
from guidance.toy_scores import SCORES
from small_diffusion import build_folder, write_json
from small_families import DDIM_OF_SDXL, build_flux2_klein, build_sd3, build_sdxl, build_z_image

from nemo_dreamfusion.modules.guidance.distillation.bridge import BridgeScore
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.modules.guidance.timesteps import UniformTimesteps
from nemo_dreamfusion.parts.types import PromptSet


def build_flow(folder):
    """A UNet as of Stable Diffusion 1.x that was trained as a rectified flow."""
    build_folder(folder)
    write_json(folder / 'scheduler' / 'scheduler_config.json', FLOW_OF_SD)
    return folder


FLOW_OF_SD = {
    '_class_name': 'DPMSolverMultistepScheduler',
    'num_train_timesteps': 1000,
    'prediction_type': 'flow_prediction',
    'use_flow_sigmas': True,
    'flow_shift': 1.0,
}
BUILD = {
    'sd': build_folder,
    'sd_flow': build_flow,
    'sdxl': build_sdxl,
    'sd3': build_sd3,
    'flux2_klein': build_flux2_klein,
    'z_image': build_z_image,
}
PIPELINES = {
    'sdxl': 'StableDiffusionXLPipeline',
    'sd3': 'StableDiffusion3Pipeline',
    'flux2_klein': 'Flux2KleinPipeline',
    'z_image': 'ZImagePipeline',
}
SCALE = 7.5


@pytest.fixture(scope='module')
def folder_of(tmp_path_factory):
    built = {}

    def folder(family):
        if family not in built:
            built[family] = BUILD[family](tmp_path_factory.mktemp(family) / family)
        return built[family]

    return folder


def steps_of_pipeline(family, folder, guidance, latents, negative):
    """Run three steps of the family's pipeline; (what it predicts under guidance, time, x_t) of each."""
    import diffusers

    if family.startswith('sd_') or family == 'sd':
        pipeline = assemble_sd(folder)
    else:
        pipeline = getattr(diffusers, PIPELINES[family]).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    steps, step = [], pipeline.scheduler.step

    def watched(output, t, x, **options):
        steps.append((output, t, x))
        return step(output, t, x, **options)

    pipeline.scheduler.step = watched
    side = guidance.image_size
    options = {'negative_prompt': negative} if negative else {}
    if guidance.schedule.times is not None and family != 'sd_flow':
        options['sigmas'] = [0.9, 0.5, 0.2]  # before the shift: rows 899, 499, 199
    if family == 'flux2_klein':  # its pipeline has a shift of its own for the steps of a sampler
        options['sigmas'] = unshift(guidance.schedule.sigma[[899, 499, 199]], latents)
        if negative:
            del options['negative_prompt']
            options['negative_prompt_embeds'] = pipeline.encode_prompt(negative)[0]
    pipeline(
        prompt='a red cube',
        height=side,
        width=side,
        num_inference_steps=3,
        guidance_scale=SCALE - 1 if family == 'z_image' else SCALE,  # it writes (1 + s) text - s uncond
        latents=latents,
        output_type='latent',
        **options,
    )
    return steps


def unshift(sigma, latents):
    """What FLUX.2's pipeline must be given for its scheduler to arrive at these sigmas."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    shift = math.exp(compute_empirical_mu(latents.shape[2] * latents.shape[3], 3))
    return (sigma / (shift - (shift - 1) * sigma)).tolist()


def as_image(output, like):
    """A pipeline's tokens [1, h w, C] as an image; an image as it is."""
    return output.mT.view(like.shape) if output.ndim == 3 else output


def options_of(family):
    """Small pictures for the families whose files do not say how large theirs are."""
    return {'latents': LatentOptions(image_size=32)} if family in ('flux2_klein', 'z_image') else {}


def assemble_sd(folder):
    """The folder of the other tests has no index."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    settings = json.loads((folder / 'scheduler' / 'scheduler_config.json').read_text())
    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / 'vae'),
        unet=UNet2DConditionModel.from_pretrained(folder / 'unet'),
        text_encoder=CLIPTextModel.from_pretrained(folder / 'text_encoder'),
        tokenizer=CLIPTokenizer.from_pretrained(folder / 'tokenizer'),
        scheduler=DPMSolverMultistepScheduler(**settings)
        if settings.get('use_flow_sigmas')
        else DDIMScheduler(**DDIM_OF_SDXL),
        safety_checker=None,
        feature_extractor=None,
    )


def plain_conditioning(guidance):
    """The prompt without a view, away from the negative prompt."""
    table = guidance.embeddings
    text, negative, empty = (x[None] for x in (table.plain, table.negative, table.empty))
    return Conditioning(text=text, unconditional=negative, empty=empty, plain=text, pose=torch.zeros(1, 16))


def time_of(guidance, told) -> int:
    """The row of our table whose network is told what the pipeline's was."""
    times = guidance.schedule.times
    return int(told) if times is None else int((times - told).abs().argmin())


@pytest.mark.parametrize('negative', ['', 'bad'])
@pytest.mark.parametrize('family', BUILD)
def test_a_prediction_under_guidance_is_that_of_the_familys_pipeline(folder_of, family, negative):
    guidance = prepared(folder_of(family), PromptSet('a red cube', negative=negative), **options_of(family))
    assert guidance.family.weights.family.name == family.removesuffix('_flow')
    shape = (1, guidance.noise_predictor.channels, guidance.latent_size, guidance.latent_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    steps = steps_of_pipeline(family, folder_of(family), guidance, latents, negative)
    assert len(steps) == 3
    mixing = GuidanceMixing(guidance_scale=SCALE)
    for output, told, x in steps:
        output, x = (as_image(tensor, latents) for tensor in (output, x))
        t = torch.tensor([time_of(guidance, told)])
        torch.testing.assert_close(guidance.schedule.network_times(t).float(), told.float()[None], rtol=1e-4, atol=0)
        expected = guidance.schedule.epsilon(output, x, t)
        found = mixing.predict(guidance.noise_model, x, t, plain_conditioning(guidance)).guided
        assert (found - expected).abs().max() < 1e-4, (family, told)


@pytest.mark.parametrize('family', BUILD)
def test_the_gradient_of_sds_through_the_vae_is_that_of_a_plain_computation(folder_of, family):
    """d/d image of 0.5 |x0 - sg(x0 - w (eps_guided - eps))|^2, with diffusers' own encoder and autograd."""
    from diffusers import Flux2KleinPipeline

    middle = UniformTimesteps(min_step_ratio=0.4, max_step_ratio=0.4)
    mixing = GuidanceMixing(guidance_scale=SCALE)
    guidance = prepared(folder_of(family), timesteps=middle, mixing=mixing, **options_of(family))
    render, cameras = make_render(1, guidance.image_size), make_cameras((0.0,), (0.0,))
    output = loss(guidance, render, cameras, latent=False)
    (found,) = torch.autograd.grad(output.loss, render.image)

    generator = torch.Generator().manual_seed(0)
    t = torch.randint(0, 1, (1,), generator=generator) + 400
    assert torch.equal(t, output.timesteps)
    vae = guidance.family.weights.vae(torch.float32)
    image = render.image.detach().requires_grad_(True)
    mean = vae.encode(image.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
    if family == 'flux2_klein':
        patches = Flux2KleinPipeline._patchify_latents(mean)
        x0 = (patches - vae.bn.running_mean.view(1, -1, 1, 1)) / (vae.bn.running_var + 1e-4).sqrt().view(1, -1, 1, 1)
    else:
        x0 = (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    noise = torch.randn(x0.shape, generator=generator)
    a, sigma = (table[400] for table in (guidance.schedule.a, guidance.schedule.sigma))
    noisy = (a * x0 + sigma * noise).detach()
    conditioning = guidance.embeddings.conditioning(cameras)
    with torch.no_grad():
        told = guidance.schedule.network_times(t)
        text, empty = (
            guidance.noise_predictor(noisy, told, context) for context in (conditioning.text, conditioning.empty)
        )
        mixed = empty + SCALE * (text - empty)
        eps = noisy + a * mixed if guidance.schedule.prediction_type == 'flow_prediction' else mixed
    (expected,) = torch.autograd.grad(x0, image, sigma**2 * (eps - noise))
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize('family', BUILD)
def test_scores_without_training_work_with_every_family(folder_of, family):
    """One step each; the bridge is on."""
    scores = [
        kind() for kind in SCORES.values() if not (kind.trains_unet or kind.compares_source or kind is BridgeScore)
    ]
    guidance = prepared(folder_of(family), score=BridgeScore(start=0.0, fault_words='bad'), **options_of(family))
    render, cameras = make_render(2, guidance.image_size), make_cameras((0.0, 180.0), (0.0, 0.0))
    for score in [guidance.score, *scores]:
        guidance.score = score
        found = loss(guidance, render, cameras)
        gradient = torch.autograd.grad(found.loss, render.image)[0]
        assert gradient.isfinite().all() and gradient.abs().amax() > 0, type(score).__name__
