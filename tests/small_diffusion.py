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

"""A Stable Diffusion of random weights, small enough to build in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = ['a', 'red', 'blue', 'cube', 'sphere', 'dragon', 'front', 'side', 'back', 'overhead', 'view', 'bad', ',']
VAE = {  # of a factor 4
    'block_out_channels': (8, 8, 16),
    'down_block_types': ('DownEncoderBlock2D',) * 3,
    'up_block_types': ('UpDecoderBlock2D',) * 3,
    'layers_per_block': 1,
    'norm_num_groups': 4,
    'sample_size': 32,
}
DDIM = {
    '_class_name': 'DDIMScheduler',
    'num_train_timesteps': 1000,
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_tokenizer(folder: Path, length: int, *, closed: bool) -> None:
    """A true CLIP tokenizer; a closed one knows WORDS only, an open one every letter besides."""
    from transformers import CLIPTokenizer

    letters = 'abcdefghijklmnopqrstuvwxyz0123456789,.!-'
    spelled = sorted({c for w in WORDS for c in w[:-1]} | {w[-1] + '</w>' for w in WORDS}) if closed else []
    tokens = spelled if closed else [*letters, *(c + '</w>' for c in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + '</w>']
        while len(pieces) > 1:  # words are joined from the left; no rule of one spoils another
            rule = (pieces[0], pieces[1])
            if rule not in merges:
                merges.append(rule)
            pieces = [''.join(rule), *pieces[2:]]
    tokens = list(dict.fromkeys([*tokens, *(a + b for a, b in merges), '<|startoftext|>', '<|endoftext|>']))
    vocab = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length).save_pretrained(folder)


# Stable Diffusion 1.x as it is, but for its width: 512-pixel images, a factor-8 VAE, 64x64 latents, 77 tokens.
FULL_DEPTH = {
    'length': 77,
    'unet': {
        'sample_size': 64,
        'block_out_channels': (16, 32, 32, 32),
        'layers_per_block': 2,
        'down_block_types': (*['CrossAttnDownBlock2D'] * 3, 'DownBlock2D'),
        'up_block_types': ('UpBlock2D', *['CrossAttnUpBlock2D'] * 3),
    },
    'vae': {
        'block_out_channels': (8, 8, 16, 16),
        'down_block_types': ('DownEncoderBlock2D',) * 4,
        'up_block_types': ('UpDecoderBlock2D',) * 4,
        'layers_per_block': 2,
        'sample_size': 512,
    },
}


def build_folder(
    folder: Path,
    *,
    closed: bool = False,
    prediction_type: str = 'epsilon',
    length: int = 16,
    unet: dict | None = None,
    vae: dict | None = None,
) -> Path:
    """Writes a whole Stable Diffusion folder: 32-pixel images, a factor-4 VAE, 8x8 latents, unless told otherwise."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    write_tokenizer(folder / 'tokenizer', length, closed=closed)
    tokenizer = CLIPTokenizer.from_pretrained(folder / 'tokenizer')
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPTextModel(text).save_pretrained(folder / 'text_encoder')
    unet_sizes = {
        'sample_size': 8,
        'block_out_channels': (16, 32),
        'layers_per_block': 1,
        'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
        'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D'),
        'cross_attention_dim': 16,
        'attention_head_dim': 2,
        'norm_num_groups': 8,
        **(unet or {}),
    }
    UNet2DConditionModel(**unet_sizes).save_pretrained(folder / 'unet')
    AutoencoderKL(**{**VAE, **(vae or {})}).save_pretrained(folder / 'vae')
    write_json(folder / 'scheduler' / 'scheduler_config.json', {**DDIM, 'prediction_type': prediction_type})
    return folder
