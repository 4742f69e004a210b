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

"""Names of tensors: NeMo's (CompVis') and diffusers', one function per network.

NeMo wrote the blocks of its UNet in several vintages. :func:`to_latest_names` gives all the names of
the last one (v2.0 to v2.4); the functions ``to_nemo_*_key`` give for each name of diffusers the one in NeMo, so that reading
and writing share one table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# --- the archive's prefixes ------------------------------------------------------------------------------------------

PARTS = {'unet': 'model.diffusion_model.', 'vae': 'first_stage_model.', 'text_encoder': 'cond_stage_model.'}
_DREAMBOOTH = {'unet.': PARTS['unet'], 'vae.': PARTS['vae'], 'text_encoder.': PARTS['text_encoder']}


def split_parts(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors without their prefixes by part: ``unet``, ``vae``, ``text_encoder``, the rest as ``schedule``.

    Remove what wrappers left in the names: ``model.`` and ``module.`` in front (Megatron), ``_orig_mod`` anywhere
    (torch.compile), ``_extra_state`` (Transformer Engine), and DreamBooth's names of the parts.
    """
    parts: dict[str, dict[str, Tensor]] = {'unet': {}, 'vae': {}, 'text_encoder': {}, 'schedule': {}}
    for key, value in state.items():
        if key.endswith('_extra_state'):
            continue
        name = _without_wrappers(key)
        for part, prefix in PARTS.items():
            if name.startswith(prefix):
                parts[part][name[len(prefix) :]] = value
                break
        else:
            parts['schedule'][name] = value
    return parts


def _without_wrappers(key: str) -> str:
    name = key.replace('._orig_mod', '').replace('_orig_mod.', '')
    name = re.sub(r'^model\.module\.', 'model.', name)
    if name.startswith('model.') and not name.startswith(PARTS['unet']):
        name = name[len('model.') :]
    for short, full in _DREAMBOOTH.items():
        if name.startswith(short):
            name = full + name[len(short) :].removeprefix('diffusion_model.')
    return name


# --- the UNet --------------------------------------------------------------------------------------------------------

_VINTAGES = (
    # 2023-10 and earlier, and LDM itself
    (r'(transformer_blocks\.\d+)\.norm1\.', r'\1.attn1.norm.'),
    (r'(transformer_blocks\.\d+)\.norm2\.', r'\1.attn2.norm.'),
    (r'(transformer_blocks\.\d+)\.norm3\.', r'\1.ff.net.0.'),
    (r'ff\.net\.2\.', r'ff.net.3.'),
    (r'ff\.net\.0\.proj\.', r'ff.net.1.proj.'),
    # v1.23
    (r'(attn[12])\.norm_to_q\.0\.', r'\1.norm.'),
    (r'(attn[12])\.norm_to_q\.1\.', r'\1.to_q.'),
    # Transformer Engine
    (r'(attn[12])\.norm_to_q\.layer_norm_', r'\1.norm.'),
    (r'(attn[12])\.norm_to_q\.weight', r'\1.to_q.weight'),
    (r'ff\.net\.layer_norm_', r'ff.net.0.'),
    (r'ff\.net\.fc1_', r'ff.net.1.proj.'),
    (r'ff\.net\.fc2_', r'ff.net.3.'),
    # LDM's indices, which count the activation between normalisation and convolution
    (r'in_layers\.2\.', r'in_layers.1.'),
    (r'out_layers\.3\.', r'out_layers.2.'),
    (r'^out\.2\.', r'out.1.'),
)


def find_vintage(unet: Mapping[str, Any]) -> str:
    """Return ``te`` (Transformer Engine), ``v1.23``, ``2023-10`` or ``v2``, by the names of the UNet's tensors."""
    if any('norm_to_q.layer_norm_' in key for key in unet):
        return 'te'
    if any('norm_to_q.0.' in key for key in unet):
        return 'v1.23'
    if any(re.search(r'transformer_blocks\.\d+\.norm1\.', key) for key in unet):
        return '2023-10'
    return 'v2'


def to_latest_names(unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the UNet's tensors under the names of v2.0 to v2.4."""
    te = find_vintage(unet) == 'te'
    result = {}
    for key, value in unet.items():
        if te and 'ff.net.fc1_' in key:  # its gate comes first
            value = torch.cat(value.chunk(2)[::-1])
        for pattern, replacement in _VINTAGES:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    return result


_RESNET = {
    'norm1': 'in_layers.0',
    'conv1': 'in_layers.1',
    'time_emb_proj': 'emb_layers.1',
    'norm2': 'out_layers.0',
    'conv2': 'out_layers.2',
    'conv_shortcut': 'skip_connection',
}
_TRANSFORMER = (
    (r'\.norm([12])\.', r'.attn\1.norm.'),
    (r'\.norm3\.', r'.ff.net.0.'),
    (r'\.ff\.net\.2\.', r'.ff.net.3.'),
    (r'\.ff\.net\.0\.proj\.', r'.ff.net.1.proj.'),
)
_TOP = {
    'time_embedding.linear_1': 'time_embed.0',
    'time_embedding.linear_2': 'time_embed.2',
    'conv_in': 'input_blocks.0.0',
    'conv_norm_out': 'out.0',
    'conv_out': 'out.1',
}


def to_nemo_unet_key(key: str, layers: int, upsampler_after_attention: Mapping[int, bool]) -> str:
    """Return NeMo's name of a tensor of UNet2DConditionModel.

    Args:
        key: its name in diffusers.
        layers: ``layers_per_block``.
        upsampler_after_attention: for each of ``up_blocks``, whether it holds attention (its upsampler then is third).
    """
    module, _, leaf = key.rpartition('.')
    if module in _TOP:
        return f'{_TOP[module]}.{leaf}'
    side, *rest = key.split('.')
    if side == 'mid_block':
        kind, index, tail = rest[0], int(rest[1]), '.'.join(rest[2:])
        return f'middle_block.{2 * index if kind == "resnets" else 1}.{_inside(kind, tail)}'
    block, kind, index, tail = int(rest[0]), rest[1], int(rest[2]), '.'.join(rest[3:])
    if side == 'down_blocks':
        first = 1 + block * (layers + 1)
        if kind == 'downsamplers':
            return f'input_blocks.{first + layers}.0.op.{leaf}'
        return f'input_blocks.{first + index}.{0 if kind == "resnets" else 1}.{_inside(kind, tail)}'
    first = block * (layers + 1)
    if kind == 'upsamplers':
        return f'output_blocks.{first + layers}.{2 if upsampler_after_attention[block] else 1}.conv.{leaf}'
    return f'output_blocks.{first + index}.{0 if kind == "resnets" else 1}.{_inside(kind, tail)}'


def _inside(kind: str, tail: str) -> str:
    """Return the rest of a name within one resnet or one transformer."""
    if kind == 'resnets':
        name, _, leaf = tail.partition('.')
        return f'{_RESNET[name]}.{leaf}'
    for pattern, replacement in _TRANSFORMER:
        tail, count = re.subn(pattern, replacement, tail)
        if count:
            break
    return tail


# --- the VAE ---------------------------------------------------------------------------------------------------------

_ATTENTION = {'group_norm': 'norm', 'to_q': 'q', 'to_k': 'k', 'to_v': 'v', 'to_out.0': 'proj_out'}


def to_nemo_vae_key(key: str, levels: int) -> str:
    """Return NeMo's name of a tensor of AutoencoderKL with ``levels`` resolutions."""
    key = re.sub(r'mid_block\.resnets\.(\d)', lambda m: f'mid.block_{int(m[1]) + 1}', key)
    match = re.match(r'(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)$', key)
    if match:
        return f'{match[1]}mid.attn_1.{_ATTENTION[match[2]]}.{match[3]}'
    key = re.sub(r'encoder\.down_blocks\.(\d+)\.resnets\.(\d+)', r'encoder.down.\1.block.\2', key)
    key = re.sub(r'encoder\.down_blocks\.(\d+)\.downsamplers\.0', r'encoder.down.\1.downsample', key)
    key = re.sub(r'decoder\.up_blocks\.(\d+)', lambda m: f'decoder.up.{levels - 1 - int(m[1])}', key)
    key = re.sub(r'(decoder\.up\.\d+)\.resnets\.(\d+)', r'\1.block.\2', key)
    key = key.replace('.upsamplers.0.', '.upsample.')
    return key.replace('conv_norm_out', 'norm_out').replace('conv_shortcut', 'nin_shortcut')


def to_nemo_vae_tensor(nemo_key: str, value: Tensor) -> Tensor:
    """Return the tensor in NeMo's shape: attention is a 1x1 convolution there. [C, C] -> [C, C, 1, 1]."""
    if re.search(r'mid\.attn_1\.(q|k|v|proj_out)\.weight$', nemo_key) and value.ndim == 2:
        return value[:, :, None, None]
    return value


def to_diffusers_vae_tensor(nemo_key: str, value: Tensor) -> Tensor:
    """Return the tensor in diffusers' shape: [C, C, 1, 1] -> [C, C]."""
    if re.search(r'mid\.attn_1\.(q|k|v|proj_out)\.weight$', nemo_key):
        return value.reshape(value.shape[:2])
    return value
