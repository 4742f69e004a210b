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

"""Whole models in one file, as model sites have them: the true layout of Stable Diffusion 1, 2 and XL, random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from small_diffusion import write_tokenizer
from small_families import DDIM, write_index, write_json
from torch import nn

LENGTH = 77
CHANNELS = (64, 128)
OWN_NAMES = {  # of diffusers -> of latent diffusion, inside a block
    'norm1': 'in_layers.0',
    'conv1': 'in_layers.2',
    'time_emb_proj': 'emb_layers.1',
    'norm2': 'out_layers.0',
    'conv2': 'out_layers.3',
    'conv_shortcut': 'skip_connection',
}
KINDS = {  # heads as published: 8, or of 64 channels
    'sd1': {'attention_head_dim': [8, 8], 'cross_attention_dim': 64},
    'sd2': {'attention_head_dim': [1, 2], 'cross_attention_dim': 64, 'use_linear_projection': True},
    'sdxl': {
        'attention_head_dim': [1, 2],
        'cross_attention_dim': 64 + 128,
        'use_linear_projection': True,
        'transformer_layers_per_block': [1, 2],
        'addition_embed_type': 'text_time',
        'addition_time_embed_dim': 8,
        'projection_class_embeddings_input_dim': 32 + 6 * 8,
    },
}


def build_model(kind: str, folder: Path) -> Path:
    """The model as a folder in diffusers' format, by diffusers' and transformers' own classes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    attends = ['DownBlock2D', 'CrossAttnDownBlock2D'] if kind == 'sdxl' else ['CrossAttnDownBlock2D', 'DownBlock2D']
    UNet2DConditionModel(
        sample_size={'sd1': 256, 'sd2': 384, 'sdxl': 512}[kind],  # two levels of the VAE: half of the picture's side
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=attends,
        up_block_types=[name.replace('Down', 'Up') for name in attends[::-1]],
        **KINDS[kind],
    ).save_pretrained(folder / 'unet')
    AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=['DownEncoderBlock2D'] * 2,
        up_block_types=['UpDecoderBlock2D'] * 2,
        layers_per_block=1,
        scaling_factor=0.13025 if kind == 'sdxl' else 0.18215,
        sample_size=64,
    ).save_pretrained(folder / 'vae')
    write_encoder(folder, '', 64, 'CLIPTextModel', hidden_act='gelu' if kind == 'sd2' else 'quick_gelu')
    if kind == 'sdxl':
        write_encoder(folder, '_2', 128, 'CLIPTextModelWithProjection', hidden_act='gelu', projection_dim=32)
    prediction = 'v_prediction' if kind == 'sd2' else 'epsilon'
    write_json(folder / 'scheduler' / 'scheduler_config.json', {**DDIM, 'prediction_type': prediction})
    write_index(folder, 'StableDiffusionXLPipeline' if kind == 'sdxl' else 'StableDiffusionPipeline')
    return folder


def write_encoder(folder: Path, number: str, width: int, kind: str, **sizes) -> None:
    import transformers

    write_tokenizer(folder / f'tokenizer{number}', LENGTH, closed=False)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / f'tokenizer{number}')
    if sizes['hidden_act'] == 'gelu':  # OpenCLIP's
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        tokenizer.save_pretrained(folder / f'tokenizer{number}')
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **sizes,
    )
    getattr(transformers, kind)(config).save_pretrained(folder / f'text_encoder{number}')


def write_file(kind: str, folder: Path, path: Path, *, half: bool = False, metadata: dict | None = None) -> Path:
    """The model of a folder as one file under the names of latent diffusion."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    state = ldm_unet(UNet2DConditionModel.from_pretrained(folder / 'unet'), 'model.diffusion_model.')
    state |= ldm_vae(AutoencoderKL.from_pretrained(folder / 'vae'))
    first = CLIPTextModel.from_pretrained(folder / 'text_encoder')
    if kind == 'sdxl':
        second = CLIPTextModelWithProjection.from_pretrained(folder / 'text_encoder_2')
        state |= clip(first, 'conditioner.embedders.0.transformer.') | open_clip(
            second, 'conditioner.embedders.1.model.'
        )
    elif kind == 'sd2':
        state |= open_clip(first, 'cond_stage_model.model.', unread_layer=True)
    else:
        state |= clip(first, 'cond_stage_model.transformer.')
    state |= {'alphas_cumprod': torch.zeros(1000), 'model_ema.decay': torch.zeros(1)}  # what files have besides
    state = {key: (value.half() if half else value).contiguous().clone() for key, value in state.items()}
    if path.suffix == '.safetensors':
        save_file(state, path, metadata=metadata)
    else:
        torch.save({'state_dict': state, 'global_step': 7}, path)
    return path


def ldm_unet(unet: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """Of two levels of one block each: input blocks 1, down, 3; output blocks (0, 1), (2, 3)."""
    top = {
        'time_embedding.linear_1': 'time_embed.0',
        'time_embedding.linear_2': 'time_embed.2',
        'add_embedding.linear_1': 'label_emb.0.0',
        'add_embedding.linear_2': 'label_emb.0.2',
        'class_embedding.linear_1': 'camera_embed.0',
        'class_embedding.linear_2': 'camera_embed.2',
        'conv_in': 'input_blocks.0.0',
        'conv_norm_out': 'out.0',
        'conv_out': 'out.2',
        'down_blocks.0.resnets.0': 'input_blocks.1.0',
        'down_blocks.0.attentions.0': 'input_blocks.1.1',
        'down_blocks.0.downsamplers.0.conv': 'input_blocks.2.0.op',
        'down_blocks.1.resnets.0': 'input_blocks.3.0',
        'down_blocks.1.attentions.0': 'input_blocks.3.1',
        'mid_block.resnets.0': 'middle_block.0',
        'mid_block.attentions.0': 'middle_block.1',
        'mid_block.resnets.1': 'middle_block.2',
    }
    first_attends = unet.config.up_block_types[0].startswith('CrossAttn')
    for block, output in ((0, 0), (1, 2)):
        for layer in (0, 1):
            top[f'up_blocks.{block}.resnets.{layer}'] = f'output_blocks.{output + layer}.0'
            top[f'up_blocks.{block}.attentions.{layer}'] = f'output_blocks.{output + layer}.1'
    top['up_blocks.0.upsamplers.0.conv'] = f'output_blocks.1.{2 if first_attends else 1}.conv'
    state = {}
    for key, value in unet.state_dict().items():
        old = max((name for name in top if key.startswith(f'{name}.')), key=len)
        rest = key[len(old) + 1 :]
        if '.resnets.' in old:
            module, _, leaf = rest.rpartition('.')
            rest = f'{OWN_NAMES[module]}.{leaf}'
        state[f'{prefix}{top[old]}.{rest}'] = value
    return state


def ldm_vae(vae: nn.Module) -> dict[str, torch.Tensor]:
    state = {}
    for key, value in vae.state_dict().items():
        name = key.replace('up_blocks.0', 'up.1').replace('up_blocks.1', 'up.0').replace('down_blocks', 'down')
        name = name.replace('mid_block.resnets.0', 'mid.block_1').replace('mid_block.resnets.1', 'mid.block_2')
        name = name.replace('.resnets.', '.block.').replace('mid_block.attentions.0', 'mid.attn_1')
        name = name.replace('downsamplers.0', 'downsample').replace('upsamplers.0', 'upsample')
        name = name.replace('conv_norm_out', 'norm_out').replace('conv_shortcut', 'nin_shortcut')
        if 'attn_1' in name:
            for new, old in (
                ('group_norm', 'norm'),
                ('to_q', 'q'),
                ('to_k', 'k'),
                ('to_v', 'v'),
                ('to_out.0', 'proj_out'),
            ):
                name = name.replace(new, old)
            value = value[:, :, None, None] if value.ndim == 2 else value
        state[f'first_stage_model.{name}'] = value
    return state


def clip(encoder: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    names = {key: key.removeprefix('text_model.') for key in encoder.state_dict()}
    return {f'{prefix}text_model.{name}': encoder.state_dict()[key] for key, name in names.items()}


def open_clip(encoder: nn.Module, prefix: str, *, unread_layer: bool = False) -> dict[str, torch.Tensor]:
    """Under OpenCLIP's names; with ``unread_layer`` there is a further one behind the last, as in Stable Diffusion 2."""
    given = {key.removeprefix('text_model.'): value for key, value in encoder.state_dict().items()}
    layers = encoder.config.num_hidden_layers
    state = {
        'token_embedding.weight': given['embeddings.token_embedding.weight'],
        'positional_embedding': given['embeddings.position_embedding.weight'],
        'ln_final.weight': given['final_layer_norm.weight'],
        'ln_final.bias': given['final_layer_norm.bias'],
        'logit_scale': torch.ones([]),
    }
    state['text_projection'] = given.get('text_projection.weight', torch.zeros(encoder.config.hidden_size, 4).T).T
    for i in range(layers + unread_layer):
        old, new = f'encoder.layers.{min(i, layers - 1)}.', f'transformer.resblocks.{i}.'
        for leaf in ('weight', 'bias'):
            fused = [given[f'{old}self_attn.{part}_proj.{leaf}'] for part in 'qkv']
            state[f'{new}attn.in_proj_{leaf}'] = torch.cat(fused)
            for ours, theirs in (
                ('self_attn.out_proj', 'attn.out_proj'),
                ('layer_norm1', 'ln_1'),
                ('layer_norm2', 'ln_2'),
                ('mlp.fc1', 'mlp.c_fc'),
                ('mlp.fc2', 'mlp.c_proj'),
            ):
                state[f'{new}{theirs}.{leaf}'] = given[f'{old}{ours}.{leaf}']
    return {prefix + key: value for key, value in state.items()}
