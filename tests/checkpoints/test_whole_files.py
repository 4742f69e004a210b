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

"""A whole model in one file: the prediction under guidance equals that of diffusers' own loading of the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from guidance.test_families import SCALE, plain_conditioning
from small_files import build_model, write_file

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.parts.types import PromptSet

RED = PromptSet('a red cube')
V = {'modelspec.prediction_type': 'v'}
SMALL = LatentOptions(image_size=16, latent_map='normal_opacity')


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """From a kind to the folder of a model and to the same in one file."""
    built: dict[str, tuple[Path, Path]] = {}

    def model(kind):
        if kind not in built:
            root = tmp_path_factory.mktemp(kind)
            folder = build_model(kind, root / 'folder')
            (root / 'file').mkdir()
            file = write_file(kind, folder, root / 'file' / 'own.safetensors', metadata=V if kind == 'sd2' else None)
            built[kind] = folder, file
        return built[kind]

    return model


def guided(guidance) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Our prediction under guidance, and the latents and the time that it is of."""
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([400])
    with torch.no_grad():
        found = GuidanceMixing(guidance_scale=SCALE).predict(guidance.noise_model, x, t, plain_conditioning(guidance))
    return found.guided, x, t


def prepared(source, **options) -> HuggingFaceGuidance:
    guidance = HuggingFaceGuidance(source=str(source), latents=SMALL, **options)
    guidance.check_prompts(RED)
    guidance.prepare(RED, 'cpu')
    return guidance


@torch.no_grad()
def guided_by_diffusers(file, folder, kind, x, t):
    """Of diffusers' own loading of the file, with the configurations of the folder; its VAE's mean, too."""
    import diffusers

    kinds = {'sdxl': 'StableDiffusionXLPipeline'}
    pipeline = getattr(diffusers, kinds.get(kind, 'StableDiffusionPipeline')).from_single_file(
        str(file), config=str(folder), local_files_only=True
    )
    encoded = pipeline.encode_prompt(
        'a red cube', device='cpu', num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    outputs = []
    for i in (0, 1):
        added = {}
        if kind == 'sdxl':
            side = x.shape[-1] * 2
            sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32)
            added = {'added_cond_kwargs': {'text_embeds': encoded[2 + i], 'time_ids': sizes}}
        outputs.append(pipeline.unet(x, t, encoder_hidden_states=encoded[i], **added).sample)
    text, empty = outputs
    found = empty + SCALE * (text - empty)
    if kind == 'sd2':  # v: as noise
        a = pipeline.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        found = a.sqrt() * found + (1 - a).sqrt() * x
    return found, pipeline.vae


@pytest.mark.parametrize('kind', ['sd1', 'sd2', 'sdxl'])
def test_the_guided_prediction_is_that_of_diffusers_own_loading(models, kind):
    folder, file = models(kind)
    guidance = prepared(file, tokenizer=str(folder))
    found, x, t = guided(guidance)
    expected, vae = guided_by_diffusers(file, folder, kind, x, t)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1)
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean = vae.encode(2 * image.permute(0, 3, 1, 2) - 1).latent_dist.mean * vae.config.scaling_factor
        assert (guidance.encode(image, None) - mean).abs().max() < 1e-5


@pytest.mark.parametrize('kind', ['sd1', 'sd2', 'sdxl'])
def test_a_file_says_what_its_folder_says(models, kind):
    folder, file = models(kind)
    families = ('sd', 'sdxl')
    ours, theirs = (DiffusersCheckpoint(str(path), families=families) for path in (file, folder))
    for part in theirs.parts:
        wanted, found = theirs.tensors(part), ours.tensors(part)
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
        said, meant = ours.build_empty(part).config, theirs.build_empty(part).config
        keys = set(ours.config(part)) - {'sample_size', 'projection_dim', '_class_name'}
        assert {key: getattr(said, key) for key in keys} == {key: getattr(meant, key) for key in keys}
    assert ours.config('unet')['sample_size'] == theirs.config('unet')['sample_size']
    assert ours.scheduler_config()['prediction_type'] == theirs.scheduler_config()['prediction_type']
    assert ours.family is theirs.family
