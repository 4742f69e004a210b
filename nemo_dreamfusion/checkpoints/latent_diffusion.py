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

"""Networks under the names of latent diffusion: configurations read off the shapes, and diffusers' names for the tensors.

Files in one have no configuration. What no tensor tells is as published: 32 groups a norm, 64 channels a head where
projections are linear (Stable Diffusion 2 and XL), else 8 heads (1.x).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nemo_dreamfusion.checkpoints import nemo_keys
from nemo_dreamfusion.checkpoints.configurations import ADDED_TEXT, CAMERA_NUMBERS
from nemo_dreamfusion.parts.checks import refuse

_EMBEDDINGS = {  # modules of diffusers that NeMo's Stable Diffusion has not
    'class_embedding.linear_1': 'camera_embed.0',
    'class_embedding.linear_2': 'camera_embed.2',
    'add_embedding.linear_1': 'label_emb.0.0',
    'add_embedding.linear_2': 'label_emb.0.2',
}
_SIZES = 6  # numbers of size and crop that Stable Diffusion XL is told


def unet_config(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    latent_size: int,
    head_channels: int | None = None,
    pooled: int = 0,
) -> dict[str, Any]:
    """Return the arguments of UNet2DConditionModel, from the shapes.

    Args:
        tensors: under the names of NeMo v2 (:func:`~nemo_dreamfusion.checkpoints.nemo_keys.to_latest_names`).
        name: of the network, for messages.
        latent_size: side of its latents, which no tensor tells.
        head_channels: channels of an attention head, where they are not as published.
        pooled: numbers of the pooled text of Stable Diffusion XL.

    Raises:
        ValueError: for heads that do not fit the channels, and for tensors of no UNet.
    """
    try:
        return _unet_config(tensors, name, latent_size, head_channels, pooled)
    except (KeyError, IndexError, StopIteration) as error:
        raise ValueError(f'{name} lacks tensors of a UNet ({error or "no attention"}).') from error


def _unet_config(
    tensors: Mapping[str, Tensor], name: str, latent_size: int, head_channels: int | None, pooled: int
) -> dict[str, Any]:
    channels, depths = _levels(tensors)
    levels = [level[-1] for level in channels]
    linear = next(tensors[key] for key in tensors if key.endswith('.proj_in.weight')).ndim == 2
    per_head = head_channels or (64 if linear else None)
    if per_head is not None and any(level % per_head for level in levels):
        allowed = f'a divisor of all of {", ".join(map(str, levels))}, the channels of {name}'
        refuse('head_channels', per_head, allowed, 'Set head_channels to the channels of one attention head.')
    kinds = ['CrossAttn' if depth else '' for depth in depths]
    config = {
        'sample_size': latent_size,
        'in_channels': tensors['input_blocks.0.0.weight'].shape[1],
        'out_channels': tensors['out.1.weight'].shape[0],
        'block_out_channels': levels,
        'layers_per_block': len(channels[0]),
        'down_block_types': [f'{kind}DownBlock2D' for kind in kinds],
        'up_block_types': [f'{kind}UpBlock2D' for kind in kinds[::-1]],
        'cross_attention_dim': next(t.shape[1] for key, t in tensors.items() if key.endswith('attn2.to_k.weight')),
        # diffusers calls the number of heads so
        'attention_head_dim': [8 if per_head is None else level // per_head for level in levels],
        'use_linear_projection': linear,
    }
    if any(depth > 1 for depth in depths):
        config['transformer_layers_per_block'] = [depth or 1 for depth in depths]
    if 'camera_embed.0.weight' in tensors:
        config |= {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': CAMERA_NUMBERS}
    elif 'label_emb.0.0.weight' in tensors:
        added = tensors['label_emb.0.0.weight'].shape[1]
        config |= {'addition_embed_type': ADDED_TEXT, 'projection_class_embeddings_input_dim': added}
        config['addition_time_embed_dim'] = (added - pooled) // _SIZES
    return config


def _levels(tensors: Mapping[str, Tensor]) -> tuple[list[list[int]], list[int]]:
    """Return for each resolution the channels of its blocks, and how many transformer layers one of them has."""
    blocks = sorted({int(m[1]) for key in tensors if (m := re.match(r'input_blocks\.(\d+)\.', key))})
    channels: list[list[int]] = [[]]
    depths = [0]
    for block in blocks[1:]:
        if f'input_blocks.{block}.0.op.weight' in tensors:
            channels.append([])
            depths.append(0)
            continue
        channels[-1].append(tensors[f'input_blocks.{block}.0.out_layers.2.weight'].shape[0])
        layers = re.compile(rf'input_blocks\.{block}\.1\.transformer_blocks\.(\d+)\.')
        depths[-1] = max([depths[-1], *(int(m[1]) + 1 for key in tensors if (m := layers.match(key)))])
    return channels, depths


def unet_key(config: Mapping[str, Any]) -> Callable[[str], str]:
    """Return the function from diffusers' name of a tensor of a UNet to that of NeMo v2."""
    attends = {i: kind.startswith('CrossAttn') for i, kind in enumerate(config['up_block_types'])}

    def stored_key(key: str) -> str:
        module, _, leaf = key.rpartition('.')
        if module in _EMBEDDINGS:
            return f'{_EMBEDDINGS[module]}.{leaf}'
        return nemo_keys.to_nemo_unet_key(key, config['layers_per_block'], attends)

    return stored_key


def vae_config(tensors: Mapping[str, Tensor], name: str, *, image_size: int, scale: float) -> dict[str, Any]:
    """Return the arguments of AutoencoderKL, from the shapes.

    Args:
        tensors: of the VAE, under the names of latent diffusion.
        name: of the network, for messages.
        image_size: pixels of the pictures that it was trained with.
        scale: of its latents.
    """
    down = {(int(m[1]), int(m[2])) for key in tensors if (m := re.match(r'encoder\.down\.(\d+)\.block\.(\d+)\.', key))}
    if not down or 'post_quant_conv.weight' not in tensors:
        raise ValueError(f'{name} lacks tensors of a VAE (encoder.down, post_quant_conv).')
    levels = max(level for level, _ in down) + 1
    return {
        'block_out_channels': [tensors[f'encoder.down.{i}.block.0.conv2.weight'].shape[0] for i in range(levels)],
        'down_block_types': ['DownEncoderBlock2D'] * levels,
        'up_block_types': ['UpDecoderBlock2D'] * levels,
        'layers_per_block': max(block for _, block in down) + 1,
        'latent_channels': tensors['post_quant_conv.weight'].shape[0],
        'sample_size': image_size,
        'scaling_factor': scale,
    }


def under_new_names(
    stored: Mapping[str, Tensor], names: Mapping[str, Any], stored_key: Callable[[str], str]
) -> dict[str, Tensor]:
    """Return tensors under the names of a network; what it has no name for keeps its own, so that it is seen.

    Args:
        stored: the tensors.
        names: of the network's own.
        stored_key: from one of these to the name that it is stored under.
    """
    known = {key: stored_key(key) for key in names}
    found = {key: stored[name] for key, name in known.items() if name in stored}
    return found | {key: value for key, value in stored.items() if key not in set(known.values())}
