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

"""LoRAs against diffusers' own loading, and the files that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from guidance.small_steps import prepared
from guidance.test_families import SCALE, assemble_sd, plain_conditioning
from refusals import refusal
from safetensors.torch import save_file
from small_families import build_sdxl

from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.parts.types import PromptSet

BLOCK = 'down_blocks.0.attentions.0.transformer_blocks.0'
TEXT = 'text_model.encoder.layers.0'
ATTENTION = [f'{BLOCK}.attn1.to_q', f'{BLOCK}.attn2.to_k', f'{BLOCK}.attn2.to_out.0']
UNET = [*ATTENTION, f'{BLOCK}.ff.net.0.proj', 'mid_block.resnets.0.conv1', 'up_blocks.1.attentions.1.proj_in']
ENCODER = [f'{TEXT}.self_attn.q_proj', f'{TEXT}.mlp.fc1']
ARCHIVE = Path(__file__).resolve().parents[1] / 'data' / 'nemo_sd' / 'sd1_v2.4.nemo'


def names(layout: str, part: str, path: str) -> tuple[str, str, str]:
    """What the factors and alpha of a layer are called."""
    if layout == 'kohya':
        stem = ('lora_unet_' if part == 'unet' else 'lora_te_') + path.replace('.', '_')
        return f'{stem}.lora_down.weight', f'{stem}.lora_up.weight', f'{stem}.alpha'
    if layout == 'diffusers':
        return f'{part}.{path}.lora_A.weight', f'{part}.{path}.lora_B.weight', f'{part}.{path}.alpha'
    module, _, leaf = path.removesuffix('.0').rpartition('.')
    stem = f'{part}.{module}.processor.{leaf}_lora'
    return f'{stem}.down.weight', f'{stem}.up.weight', f'{stem}.alpha'


def write_lora(
    folder: Path, file: Path, layout: str, *, rank: int = 2, alpha: float | None = 4.0, seed: int = 0
) -> Path:
    """A LoRA of random numbers for the small Stable Diffusion; of 2023's layout only attention, without alpha."""
    rng = torch.Generator().manual_seed(seed)
    networks = {'unet': assemble_sd(folder).unet, 'text_encoder': assemble_sd(folder).text_encoder}
    layers = {'unet': UNET, 'text_encoder': ENCODER} if layout != 'old' else {'unet': ATTENTION}
    tensors = {}
    for part, paths in layers.items():
        for path in paths:
            try:
                weight = networks[part].get_submodule(path).weight
            except AttributeError:  # transformers 5 has no text_model
                weight = networks[part].get_submodule(path.removeprefix('text_model.')).weight
            down, up, scale = names(layout, part, path)
            tensors[down] = 0.3 * torch.randn(rank, *weight.shape[1:], generator=rng)
            tensors[up] = 0.3 * torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=rng)
            if layout == 'kohya' and alpha is not None:
                tensors[scale] = torch.tensor(alpha)
    metadata = {}
    if layout == 'diffusers' and alpha is not None:
        parts = {f'{part}.{key}': value for part in layers for key, value in {'r': rank, 'lora_alpha': alpha}.items()}
        targets = {f'{part}.target_modules': paths for part, paths in layers.items()}
        metadata = {'lora_adapter_metadata': json.dumps(parts | targets)}
    save_file(tensors, file, metadata=metadata)
    return file


def predicted(guidance) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Our prediction under guidance, and the latents and time that it is of."""
    shape = (1, guidance.noise_predictor.channels, guidance.latent_size, guidance.latent_size)
    x, t = torch.randn(shape, generator=torch.Generator().manual_seed(3)), torch.tensor([400])
    with torch.no_grad():
        found = GuidanceMixing(guidance_scale=SCALE).predict(guidance.noise_model, x, t, plain_conditioning(guidance))
    return found.guided, x, t


@torch.no_grad()
def predicted_by(pipeline, x, t) -> torch.Tensor:
    """That of a pipeline of diffusers."""
    text, empty = pipeline.encode_prompt('a red cube', 'cpu', 1, True)
    text, empty = (pipeline.unet(x, t, encoder_hidden_states=context).sample for context in (text, empty))
    return empty + SCALE * (text - empty)


@pytest.mark.parametrize('layouts', [('diffusers',), ('kohya',), ('old',), ('diffusers', 'kohya')])
def test_a_guided_prediction_is_that_of_diffusers_own_loading(sd_folder, tmp_path, layouts):
    pytest.importorskip('peft')
    pipeline = assemble_sd(sd_folder)
    entries = []
    for i, layout in enumerate(layouts):
        alpha = None if layout == 'old' else 4.0
        file = write_lora(sd_folder, tmp_path / f'{layout}.safetensors', layout, alpha=alpha, seed=i)
        pipeline.load_lora_weights(tmp_path, weight_name=file.name, adapter_name=layout)
        pipeline.fuse_lora(lora_scale=0.8 - 0.3 * i, adapter_names=[layout])
        pipeline.unload_lora_weights()
        entries.append({'path': str(file), 'scale': 0.8 - 0.3 * i})
    found, x, t = predicted(prepared(sd_folder, lora=entries))
    torch.testing.assert_close(found, predicted_by(pipeline, x, t), rtol=0, atol=1e-5)
    without = predicted(prepared(sd_folder))[0]
    assert (found - without).abs().max() > 1e-2
