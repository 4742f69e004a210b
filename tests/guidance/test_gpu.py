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

"""The guidance on a CUDA device, in every precision that it runs in there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.modules.guidance.distillation.csd import ClassifierScoreDistillation
from nemo_dreamfusion.modules.guidance.distillation.ism import IntervalScoreMatching
from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.modules.guidance.networks.fp8 import CAPABILITY, Fp8Linear
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.parts.types import PromptSet

pytestmark = pytest.mark.gpu
GPU = 'cuda'


def moved(value, device):
    """A dataclass of tensors on a device; its leaves take gradients as before."""
    tensors = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    tensors = {n: x.detach().to(device) for n, x in tensors.items() if isinstance(x, torch.Tensor)}
    return dataclasses.replace(value, **{n: x.requires_grad_(x.is_floating_point()) for n, x in tensors.items()})


def step(folder, render, cameras, device, *, score=None, **options):
    guidance = HuggingFaceGuidance(
        source=str(folder), mixing=GuidanceMixing(guidance_scale=2.0), score=score, networks=NetworkOptions(**options)
    )
    guidance.prepare(PromptSet('a red cube'), device)
    render = moved(render, device)
    generator = torch.Generator().manual_seed(0)
    output = guidance.loss(render, cameras, step=0, progress=0.0, latent=False, generator=generator)
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and render.image.grad.isfinite().all()
    return output.loss.item(), render.image.grad.cpu(), guidance


@pytest.mark.parametrize('attention', ['sdpa', 'flash', 'math'])
@pytest.mark.parametrize(('precision', 'tolerance'), [(32, 1e-3), ('16-mixed', 0.05), ('bf16', 0.1), ('auto', 0.05)])
def test_every_precision_gives_the_loss_of_the_cpu(sd_folder, render, cameras, precision, tolerance, attention):
    if attention == 'flash' and precision == 32:
        with refusal('model.guidance.networks.attention', 'flash', 'model.guidance.networks.precision=16'):
            step(sd_folder, render, cameras, GPU, attention=attention)
        return
    wanted, gradient, _ = step(sd_folder, render, cameras, 'cpu')
    found, on_gpu, guidance = step(sd_folder, render, cameras, GPU, precision=precision, attention=attention)
    assert found == pytest.approx(wanted, rel=tolerance)
    assert torch.nn.functional.cosine_similarity(on_gpu.flatten(), gradient.flatten(), dim=0) > 0.98
    networks = (guidance.noise_predictor, guidance.encode)
    assert all(p.device.type == GPU for network in networks for p in network.parameters())


@pytest.mark.parametrize('cuda_graphs', [False, True])
@pytest.mark.parametrize(('precision', 'tolerance'), [(32, 1e-3), ('16-mixed', 0.05), ('bf16', 0.1)])
def test_attention_in_blocks_gives_the_loss_of_the_cpu(sd_folder, render, cameras, precision, tolerance, cuda_graphs):
    wanted, gradient, _ = step(sd_folder, render, cameras, 'cpu')
    options = {'precision': precision, 'vae_attention': 'blocks', 'cuda_graphs': cuda_graphs}
    found, on_gpu, _ = step(sd_folder, render, cameras, GPU, **options)
    assert found == pytest.approx(wanted, rel=tolerance)
    assert torch.nn.functional.cosine_similarity(on_gpu.flatten(), gradient.flatten(), dim=0) > 0.98


def test_fp8_gives_about_the_loss_of_the_cpu(sd_folder, render, cameras):
    pytest.importorskip('transformer_engine.pytorch')
    if torch.cuda.get_device_capability() < CAPABILITY:
        pytest.skip('this GPU multiplies no FP8')
    wanted, gradient, _ = step(sd_folder, render, cameras, 'cpu')
    found, on_gpu, guidance = step(sd_folder, render, cameras, GPU, precision='bf16', fp8=True)
    assert any(type(layer) is Fp8Linear and layer.weight_is_rounded for layer in guidance.noise_predictor.modules())
    assert found == pytest.approx(wanted, rel=0.2)
    assert torch.nn.functional.cosine_similarity(on_gpu.flatten(), gradient.flatten(), dim=0) > 0.9


@pytest.mark.parametrize('score', [ClassifierScoreDistillation, IntervalScoreMatching, VariationalScoreDistillation])
def test_every_score_runs_in_half_precision(sd_folder, render, cameras, score):
    if score.trains_unet:
        pytest.importorskip('peft')
    value, _, _ = step(sd_folder, render, cameras, GPU, score=score(), precision=16)
    assert value > 0


@pytest.mark.parametrize('score', [ScoreDistillationSampling, IntervalScoreMatching])
@pytest.mark.parametrize('latent', [True, False])
def test_recorded_networks_give_the_losses_of_launched_ones(sd_folder, render, cameras, latent, score):
    """And what is kept of a call does not change in the next, though a recording writes its result in the same place."""
    results = []
    for cuda_graphs in (False, True):
        guidance = HuggingFaceGuidance(
            source=str(sd_folder),
            score=score(),
            mixing=GuidanceMixing(guidance_scale=2.0),
            latents=LatentOptions(sample_posterior=True),
            networks=NetworkOptions(cuda_graphs=cuda_graphs),
        )
        guidance.prepare(PromptSet('a red cube'), GPU)
        assert (guidance.encode.stand_in is not None) == cuda_graphs
        generator, found = torch.Generator().manual_seed(0), []
        for step in range(5):
            here = moved(render, GPU)
            output = guidance.loss(here, cameras, step=step, progress=0.0, latent=latent, generator=generator)
            output.loss.backward()
            found += [output.loss.detach(), here.image.grad]
        results.append(found)
    for launched, replayed in zip(*results, strict=True):
        torch.testing.assert_close(replayed, launched, rtol=1e-3, atol=1e-6)
    text = guidance.embeddings.plain[None]
    noisy, t = (
        torch.randn(2, 1, 4, guidance.latent_size, guidance.latent_size, device=GPU),
        torch.tensor([500], device=GPU),
    )
    image = torch.rand(2, 1, guidance.image_size, guidance.image_size, 3, device=GPU, requires_grad=True)
    for call, inputs in ((lambda x: guidance.noise_model.outputs(x, t, [text])[0], noisy), (guidance.encode, image)):
        first = call(inputs[0])
        before = first.detach().clone()
        second = call(inputs[1])
        assert torch.equal(first, before) and not torch.equal(first, second)
