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

import shutil
from pathlib import Path

import pytest
import torch
from guidance.small_steps import guidance_of
from guidance.test_families import SCALE, plain_conditioning
from refusals import NO_VALUE, refusal
from safetensors.torch import save_file
from small_families import build_sd3
from small_files import build_model, ldm_unet, write_file

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.modules.guidance import memory_plan
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.modules.guidance.prompts import PromptOptions
from nemo_dreamfusion.parts.types import PromptSet

RED = PromptSet('red cube')  # without the letter that the small vocabulary pads with
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
    guidance = guidance_of(str(source), latents=SMALL, **options)
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
        'red cube', device='cpu', num_images_per_prompt=1, do_classifier_free_guidance=True
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
def test_the_guided_prediction_is_that_of_diffusers_own_loading(unpacked, models, kind):
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
        keys = set(ours.config(part)) - {'sample_size', 'projection_dim', 'pad_token_id'}
        assert {key: getattr(said, key) for key in keys} == {key: getattr(meant, key) for key in keys}
    assert ours.config('unet')['sample_size'] == theirs.config('unet')['sample_size']
    assert ours.scheduler_config()['prediction_type'] == theirs.scheduler_config()['prediction_type']
    assert ours.family is theirs.family


@pytest.fixture(scope='module')
def finetuned(models, tmp_path_factory):
    """The UNet of another training, as a folder of its own, in three layouts of one file, and its prediction."""
    from diffusers import UNet2DConditionModel

    root = tmp_path_factory.mktemp('finetuned')
    folder = models('sd1')[0]
    unet = UNet2DConditionModel.from_pretrained(folder / 'unet')
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    unet.save_pretrained(root / 'unet_folder')
    whole = Path(shutil.copytree(folder, root / 'whole'))
    unet.save_pretrained(whole / 'unet')
    save_file(unet.state_dict(), root / 'diffusers.safetensors')
    save_file(ldm_unet(unet, ''), root / 'bare.safetensors')
    torch.save(ldm_unet(unet, 'model.diffusion_model.'), root / 'prefixed.ckpt')
    write_file('sd1', whole, root / 'model.safetensors')
    expected = guided(prepared(whole))[0]
    assert (guided(prepared(folder))[0] - expected).abs().max() > 1e-3
    return root, expected


@pytest.mark.parametrize(
    'name', ['unet_folder', 'whole', 'diffusers.safetensors', 'prefixed.ckpt', 'model.safetensors']
)
def test_a_finetuned_unet_stands_over_the_rest_of_another_model(models, finetuned, name):
    folder, file = models('sd1')
    root, expected = finetuned
    options = {'source': file, 'tokenizer': str(folder)} if name == 'whole' else {'source': folder}
    found, *_ = guided(prepared(unet=str(root / name), **options))
    assert (found - expected).abs().max() < 1e-5


def test_a_unet_that_does_not_fit_is_refused(models, finetuned, tmp_path):
    folder, file = models('sdxl')
    root, _ = finetuned
    for name in ('diffusers.safetensors', 'bare.safetensors', 'model.safetensors'):
        with refusal('model.guidance.unet', str(root / name), str(folder)) as caught:
            guidance_of(str(folder), unet=str(root / name)).check_prompts(RED)
        assert '\n' not in str(caught.value)
    with refusal('model.guidance.unet', str(root / 'whole'), 'addition_embed_type'):
        guidance_of(str(folder), unet=str(root / 'whole')).check_prompts(RED)
    for unet, said in (('no/such', 'a file or a folder'), (str(tmp_path), 'config.json')):
        with refusal('model.guidance.unet', unet, said):
            guidance_of(str(folder), unet=unet).check_prompts(RED)
    with refusal('model.guidance.unet', str(root / 'whole'), 'model.guidance.unet=null'):
        guidance_of(build_sd3(tmp_path / 'sd3'), unet=str(root / 'whole')).check_prompts(RED)
    save_file({'emb_params': torch.zeros(1, 8)}, tmp_path / 'word.safetensors')
    with refusal('model.guidance.unet', str(tmp_path / 'word.safetensors'), 'a textual inversion'):
        guidance_of(str(folder), unet=str(tmp_path / 'word.safetensors')).check_prompts(RED)


def test_a_lora_an_fp16_file_and_the_cache_of_prompts_go_with_one_file(models, tmp_path, monkeypatch):
    folder, _ = models('sd1')
    file = write_file('sd1', folder, tmp_path / 'half.safetensors', half=True)
    layer = 'down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q'
    lora = {f'unet.{layer}.lora_A.weight': torch.full((1, 64), 5.0), f'unet.{layer}.lora_B.weight': torch.ones(64, 1)}
    save_file(lora, tmp_path / 'lora.safetensors')
    options = {'tokenizer': str(folder), 'prompts': PromptOptions(cache=str(tmp_path / 'cache'))}
    plain = guided(prepared(file, **options))[0]
    monkeypatch.setattr(DiffusersCheckpoint, 'text_encoder', None)  # a second run loads none
    assert torch.equal(guided(prepared(file, **options))[0], plain)
    changed = guided(prepared(file, lora=str(tmp_path / 'lora.safetensors'), **options))[0]
    assert (changed - plain).abs().max() > 1e-4
    file.touch()  # another file, perhaps
    with pytest.raises(TypeError):
        prepared(file, **options)


def test_memory_is_planned_of_one_file_as_of_its_folder(models, finetuned, monkeypatch, caplog):
    folder, file = models('sd1')
    monkeypatch.setattr(memory_plan, 'SMALL', 0)
    said = []
    for source, options in ((folder, {}), (file, {'unet': str(finetuned[0] / 'diffusers.safetensors')})):
        caplog.clear()
        with caplog.at_level('INFO', 'nemo_dreamfusion.modules.guidance.memory_plan'):
            guidance_of(source, tokenizer=str(folder), latents=SMALL, **options).say_memory('cpu', images=1, scene=0)
        (plan,) = [message for message in caplog.messages if message.startswith('The guidance needs about')]
        said.append(plan.rpartition('. ')[0])
    assert said[0] and said[0] == said[1]


def test_a_tokenizer_that_is_nowhere_is_asked_for_by_its_key(models, tmp_path, monkeypatch):
    folder, file = models('sd1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr('nemo_dreamfusion.checkpoints.clip_vocabulary.PACKAGES', ('no_such_package',))
    with refusal('openai/clip-vit-large-patch14', NO_VALUE, 'model.guidance.tokenizer', 'open_clip_torch') as caught:
        guidance_of(str(file), local_files_only=True).check_prompts(RED)
    assert '\n' not in str(caught.value)
    alone = tmp_path / 'alone'
    alone.mkdir()
    shutil.copy(folder / 'tokenizer' / 'tokenizer.json', alone)
    for given in (alone, alone / 'tokenizer.json', folder):
        guidance_of(str(file), tokenizer=str(given), local_files_only=True).check_prompts(RED)


@pytest.mark.parametrize('kind', ['sd2', 'sdxl'])
def test_the_folder_that_is_made_of_a_file_is_diffusers_own(models, tmp_path, kind):
    import diffusers

    folder, file = models(kind)
    assert convert(str(file), str(tmp_path / 'made'), tokenizer=str(folder)) == []
    made = diffusers.DiffusionPipeline.from_pretrained(tmp_path / 'made')
    wanted = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(made) is type(wanted)
    for part in ('unet', 'vae', 'text_encoder', *(['text_encoder_2'] if kind == 'sdxl' else [])):
        found = getattr(made, part).state_dict()
        assert all(torch.equal(found[key], value) for key, value in getattr(wanted, part).state_dict().items())
    if kind == 'sd2':
        convert(str(file), str(tmp_path / 'made.nemo'), tokenizer=str(folder))
