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

"""``model_config.yaml`` of a NeMo Stable Diffusion, to and from the configurations of diffusers.

An archive that this package writes also keeps diffusers' own configurations under :data:`SECTION`, which NeMo does not
read, so that nothing is lost on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.checkpoints.noise_schedule import complete_betas, compute_betas
from nemo_dreamfusion.parts.checks import check_range, refuse

SECTION = 'nemo_dreamfusion'
_PREDICTIONS = {'eps': 'epsilon', 'v': 'v_prediction', 'x0': 'sample'}
_BETAS = {'linear': 'scaled_linear', 'sqrt_linear': 'linear', 'cosine': 'squaredcos_cap_v2'}  # LDM's names: diffusers'
_NEMO = 'nemo.collections.multimodal'


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of UNet2DConditionModel."""
    if SECTION in config:
        return dict(config[SECTION]['unet'])
    unet = section(config, 'unet_config')
    channels = [unet['model_channels'] * factor for factor in unet['channel_mult']]
    attends = [2**level in list(unet['attention_resolutions']) for level in range(len(channels))]
    layers, depth = unet['num_res_blocks'], unet.get('transformer_depth', 1)
    for name, value in (('num_res_blocks', layers), ('transformer_depth', depth)):
        if not isinstance(value, int):
            refuse(f'unet_config.{name} of the archive', value, 'one whole number (SDXL is not read)')
    per_head = unet.get('num_head_channels', -1)
    heads = unet.get('num_heads', -1) if per_head in (-1, None) else [width // per_head for width in channels]
    return {
        'sample_size': config.get('image_size', unet.get('image_size')),
        'in_channels': unet['in_channels'],
        'out_channels': unet['out_channels'],
        'block_out_channels': channels,
        'layers_per_block': layers,
        'down_block_types': ['CrossAttnDownBlock2D' if a else 'DownBlock2D' for a in attends],
        'up_block_types': ['CrossAttnUpBlock2D' if a else 'UpBlock2D' for a in reversed(attends)],
        'cross_attention_dim': unet['context_dim'],
        'attention_head_dim': heads,  # the number of heads: diffusers keeps this name for SD 1's sake
        'transformer_layers_per_block': depth,
        'use_linear_projection': bool(unet.get('use_linear_in_transformer', False)),
    }


def vae_config(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], schedule: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return the arguments of AutoencoderKL. ``tensors``: the VAE's; ``schedule``: the archive's buffers."""
    if SECTION in config:
        return dict(config[SECTION]['vae'])
    dd = section(section(config, 'first_stage_config'), 'ddconfig')
    if list(dd.get('attn_resolutions', [])):
        refuse('first_stage_config.ddconfig.attn_resolutions of the archive', dd['attn_resolutions'], '[]')
    levels = len(dd['ch_mult'])
    scale = schedule.get('scale_factor', config.get('scale_factor', 0.18215))
    return {
        'in_channels': dd['in_channels'],
        'out_channels': dd['out_ch'],
        'block_out_channels': [dd['ch'] * factor for factor in dd['ch_mult']],
        'down_block_types': ['DownEncoderBlock2D'] * levels,
        'up_block_types': ['UpDecoderBlock2D'] * levels,
        'layers_per_block': dd['num_res_blocks'],
        'latent_channels': config['first_stage_config'].get('embed_dim', dd['z_channels']),
        'sample_size': dd.get('resolution', 256),
        'scaling_factor': float(scale),
        'mid_block_add_attention': any('mid.attn_1' in key for key in tensors),
    }


def scheduler_config(config: Mapping[str, Any], schedule: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the noise schedule with diffusers' keys; stored betas count where they differ from the configuration."""
    if SECTION in config:
        return dict(config[SECTION]['scheduler'])
    kind, prediction = config.get('beta_schedule', 'linear'), config.get('parameterization', 'eps')
    if kind not in _BETAS:
        refuse('beta_schedule of the archive', kind, f'one of {", ".join(_BETAS)}')
    if prediction not in _PREDICTIONS:
        refuse('parameterization of the archive', prediction, f'one of {", ".join(_PREDICTIONS)}')
    result = {
        '_class_name': 'DDIMScheduler',
        'num_train_timesteps': int(config.get('timesteps', 1000)),
        'beta_start': float(config.get('linear_start', 1e-4)),
        'beta_end': float(config.get('linear_end', 2e-2)),
        'beta_schedule': _BETAS[kind],
        'prediction_type': _PREDICTIONS[prediction],
        'clip_sample': False,
        'set_alpha_to_one': False,
        'steps_offset': 1,
    }
    stored = schedule.get('betas')
    if stored is not None and not _same_betas(stored, result):
        result['trained_betas'] = stored.double().tolist()
    return result


def _same_betas(stored: Tensor, config: Mapping[str, Any]) -> bool:
    said = compute_betas(config)
    return len(stored) == len(said) and bool(torch.allclose(stored.double(), said, rtol=1e-4, atol=1e-8))


def context_length(config: Mapping[str, Any], tokens: int) -> int | None:
    """Return the tokens to which NeMo pads the text embeddings with zeros: the next multiple of 8, but for OpenCLIP."""
    if SECTION in config:
        return config[SECTION].get('context_length')
    target = section(config, 'cond_stage_config').get('_target_', '')
    return None if target.endswith('FrozenOpenCLIPEmbedder') else (tokens + 7) // 8 * 8


def check_context_length(name: str, value: Any, tokens: int = 1) -> Any:
    """Return ``value``; refuse all but ``auto``, None and whole numbers of at least the text encoder's ``tokens``."""
    if value in ('auto', None):
        return value
    advice = 'Set it to auto for what the source says, or to null for no padding.'
    return check_range(name, value, tokens, integer=True, advice=advice)


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of the configuration that every Stable Diffusion of NeMo has."""
    found = config.get(name)
    if not isinstance(found, Mapping):
        raise ValueError(f'The archive is no NeMo Stable Diffusion: its model_config.yaml has no section {name}.')
    return found


# --- the way back ----------------------------------------------------------------------------------------------------


def nemo_config(
    parts: Mapping[str, Mapping[str, Any]], tokens: int, context: int | None, unnormalised_kv: bool = False
) -> dict[str, Any]:
    """Return ``model_config.yaml`` for diffusers' configurations ``unet``, ``vae``, ``text_encoder`` and ``scheduler``.

    NeMo's own classes are named and described as well as they can be; :func:`find_beyond_nemo` lists what they cannot hold.
    """
    unet, vae, scheduler = parts['unet'], parts['vae'], parts['scheduler']
    betas = {theirs: ours for ours, theirs in _BETAS.items()}
    predictions = {theirs: ours for ours, theirs in _PREDICTIONS.items()}
    schedule = complete_betas({'_class_name': 'DDIMScheduler', **scheduler})  # trained betas stand in the buffers
    return {
        'target': f'{_NEMO}.models.text_to_image.stable_diffusion.ldm.ddpm.MegatronLatentDiffusion',
        'precision': 32,
        'linear_start': schedule['beta_start'],
        'linear_end': schedule['beta_end'],
        'timesteps': len(compute_betas(scheduler)),
        'beta_schedule': betas[schedule['beta_schedule']],
        'parameterization': predictions[scheduler.get('prediction_type', 'epsilon')],
        'scale_factor': vae.get('scaling_factor', 0.18215),
        'image_size': unet['sample_size'],
        'channels': unet['in_channels'],
        'first_stage_key': 'images',
        'cond_stage_key': 'captions',
        'conditioning_key': 'crossattn',
        'use_ema': False,
        'inductor': False,
        'channels_last': False,
        'ckpt_path': None,
        'unet_config': _nemo_unet(unet),
        'first_stage_config': _nemo_vae(vae),
        'cond_stage_config': {
            '_target_': f'{_NEMO}.modules.stable_diffusion.encoders.modules.FrozenCLIPEmbedder',
            'version': 'openai/clip-vit-large-patch14',
            'max_length': tokens,
            'layer': 'last',
        },
        SECTION: {
            **{name: dict(part) for name, part in parts.items()},
            'context_length': context,
            'unnormalised_kv': unnormalised_kv,
        },
    }


def _nemo_unet(unet: Mapping[str, Any]) -> dict[str, Any]:
    channels = list(unet['block_out_channels'])
    heads = unet.get('attention_head_dim', 8)
    same = isinstance(heads, int)
    head_keys = {'num_heads': heads} if same else {'num_head_channels': channels[0] // heads[0]}
    return {
        '_target_': f'{_NEMO}.modules.stable_diffusion.diffusionmodules.openaimodel.UNetModel',
        'image_size': unet['sample_size'],
        'in_channels': unet['in_channels'],
        'out_channels': unet['out_channels'],
        'model_channels': channels[0],
        'channel_mult': [width // channels[0] for width in channels],
        'num_res_blocks': unet['layers_per_block'],
        'attention_resolutions': [
            2**level for level, kind in enumerate(unet['down_block_types']) if kind == 'CrossAttnDownBlock2D'
        ],
        **head_keys,
        'use_spatial_transformer': True,
        'transformer_depth': _depth(unet),
        'context_dim': unet['cross_attention_dim'],
        'use_linear_in_transformer': bool(unet.get('use_linear_projection', False)),
        'use_checkpoint': False,
        'use_flash_attention': False,
        'legacy': False,
        'from_pretrained': None,
        'from_NeMo': False,
    }


def _depth(unet: Mapping[str, Any]) -> int:
    depth = unet.get('transformer_layers_per_block', 1)
    return depth if isinstance(depth, int) else depth[0]


def _nemo_vae(vae: Mapping[str, Any]) -> dict[str, Any]:
    channels = list(vae['block_out_channels'])
    return {
        '_target_': f'{_NEMO}.models.text_to_image.stable_diffusion.ldm.autoencoder.AutoencoderKL',
        'from_pretrained': None,
        'embed_dim': vae['latent_channels'],
        'monitor': 'val/rec_loss',
        'ddconfig': {
            'double_z': True,
            'z_channels': vae['latent_channels'],
            'resolution': vae.get('sample_size', 256),
            'in_channels': vae['in_channels'],
            'out_ch': vae['out_channels'],
            'ch': channels[0],
            'ch_mult': [width // channels[0] for width in channels],
            'num_res_blocks': vae['layers_per_block'],
            'attn_resolutions': [],
            'dropout': 0.0,
        },
        'lossconfig': {'target': 'torch.nn.Identity'},
    }


def find_beyond_nemo(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what NeMo's own classes cannot hold of these configurations; empty when NeMo could load the archive too."""
    unet, vae, text = parts['unet'], parts['vae'], parts['text_encoder']
    found = []
    if unet.get('norm_num_groups', 32) != 32 or vae.get('norm_num_groups', 32) != 32:
        found.append('group normalisation with other than 32 groups')
    if not vae.get('mid_block_add_attention', True):
        found.append('a VAE without attention')
    for name, widths in (('UNet', unet['block_out_channels']), ('VAE', vae['block_out_channels'])):
        if any(width % widths[0] for width in widths):
            found.append(f'channels of the {name} that are no multiples of the first')
    if text.get('hidden_size') != 768 or text.get('vocab_size') != 49408:
        found.append("a text encoder other than CLIP ViT-L/14's")
    return found
