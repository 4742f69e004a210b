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

"""NeMo's three kinds of text encoder as transformers' CLIPTextModel: FrozenCLIP, FrozenMegatronCLIP, FrozenOpenCLIP.

All are given the names of CLIPTextModel in transformers 5, which has no ``text_model.`` in front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_MEGATRON = (
    ('embedding.word_embeddings.weight', 'embeddings.token_embedding.weight'),
    ('embedding.position_embeddings', 'embeddings.position_embedding.weight'),
    ('encoder.final_layernorm.', 'final_layer_norm.'),
    ('.input_layernorm.', '.layer_norm1.'),
    ('.post_attention_layernorm.', '.layer_norm2.'),
    ('.self_attention.dense.', '.self_attn.out_proj.'),
    ('.mlp.dense_h_to_4h.', '.mlp.fc1.'),
    ('.mlp.dense_4h_to_h.', '.mlp.fc2.'),
)
_OPEN_CLIP = (
    ('token_embedding.weight', 'embeddings.token_embedding.weight'),
    ('positional_embedding', 'embeddings.position_embedding.weight'),
    ('ln_final.', 'final_layer_norm.'),
    ('transformer.resblocks.', 'encoder.layers.'),
    ('.ln_1.', '.layer_norm1.'),
    ('.ln_2.', '.layer_norm2.'),
    ('.attn.out_proj.', '.self_attn.out_proj.'),
    ('.mlp.c_fc.', '.mlp.fc1.'),
    ('.mlp.c_proj.', '.mlp.fc2.'),
)
_OPEN_CLIP_IGNORED = ('logit_scale', 'attn_mask', 'text_projection')


def find_kind(target: str) -> str:
    """Return ``clip``, ``megatron`` or ``open_clip``, by the class that the configuration names."""
    for name, kind in (
        ('FrozenMegatronCLIPEmbedder', 'megatron'),
        ('FrozenOpenCLIPEmbedder', 'open_clip'),
        ('FrozenCLIPEmbedder', 'clip'),
    ):
        if target.endswith(name):
            return kind
    raise ValueError(
        f'The archive conditions on {target.rpartition(".")[2] or "nothing"!r}; only FrozenCLIPEmbedder, '
        'FrozenMegatronCLIPEmbedder and FrozenOpenCLIPEmbedder are read.'
    )


def check_layer(cond: Mapping[str, Any]) -> str:
    """Return the layer whose output is the embedding, ``last`` or ``penultimate``; ValueError for another."""
    layer = cond.get('layer', 'last')
    if layer not in ('last', 'penultimate'):
        raise ValueError(
            f'cond_stage_config of the archive says layer={layer!r}, which cannot be used: it must be last or penultimate. '
            'Choose a text-to-image Stable Diffusion 1.x or 2.x.'
        )
    return layer


def to_clip_names(state: Mapping[str, Tensor], cond: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of ``cond_stage_model.`` under CLIPTextModel's names, without a last layer that nothing reads."""
    kind = find_kind(cond.get('_target_', ''))
    convert = {'clip': _from_clip, 'megatron': _from_megatron, 'open_clip': _from_open_clip}[kind]
    tensors = convert(state, cond)
    layer = check_layer(cond)
    if layer == 'penultimate':
        last = count_layers(tensors) - 1
        tensors = {key: value for key, value in tensors.items() if f'encoder.layers.{last}.' not in key}
    return tensors


def _from_clip(state: Mapping[str, Tensor], cond: Mapping[str, Any]) -> dict[str, Tensor]:
    names = {key: key.removeprefix('transformer.').removeprefix('text_model.') for key in state}
    return {name: state[key] for key, name in names.items() if not name.endswith('position_ids')}


def _from_megatron(state: Mapping[str, Tensor], cond: Mapping[str, Any]) -> dict[str, Tensor]:
    config = cond.get('cfg') or {}
    text = config.get('text') or {}
    legacy = text.get('megatron_legacy', config.get('megatron_legacy', True))
    heads = text.get('num_attention_heads')
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix('model.')
        if name.startswith('head.'):
            continue  # the projection to the space shared with images
        name = _renamed(name.removeprefix('language_model.'), _MEGATRON)
        if '.self_attention.query_key_value.' in name:
            result |= _split(name, value, '.self_attention.query_key_value.', None if legacy else heads)
        else:
            result[name] = value
    return result


def _from_open_clip(state: Mapping[str, Tensor], cond: Mapping[str, Any]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix('model.')
        if name in _OPEN_CLIP_IGNORED or name.startswith('visual.'):
            continue
        name = _renamed(name, _OPEN_CLIP).replace('.attn.in_proj_', '.attn.in_proj.')
        if '.attn.in_proj.' in name:
            result |= _split(name, value, '.attn.in_proj.', None)
        else:
            result[name] = value
    return result


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for old, new in table:
        name = name.replace(old, new)
    return name


def _split(name: str, value: Tensor, fused: str, interleaved_heads: int | None) -> dict[str, Tensor]:
    """Return query, key and value of one fused tensor [3 h, ...]: in that order, or per head where ``interleaved_heads``."""
    if interleaved_heads:
        rows = value.view(interleaved_heads, 3, -1, *value.shape[1:])
        parts = [rows[:, i].reshape(-1, *value.shape[1:]) for i in range(3)]
    else:
        parts = list(value.chunk(3))
    return {name.replace(fused, f'.self_attn.{p}_proj.'): part.clone() for p, part in zip('qkv', parts)}


def count_tokens(cond: Mapping[str, Any]) -> int:
    """Return how many tokens the text encoder reads, by the archive's configuration alone."""
    text = (cond.get('cfg') or {}).get('text') or {}
    return text.get('max_position_embeddings') or cond.get('max_length') or 77


def count_layers(tensors: Mapping[str, Any]) -> int:
    """Return the number of transformer layers among CLIPTextModel's names."""
    found = [int(match[1]) for key in tensors if (match := re.match(r'encoder\.layers\.(\d+)\.', key))]
    return max(found) + 1 if found else 0


def text_config(tensors: Mapping[str, Tensor], cond: Mapping[str, Any], heads: int | None = None) -> dict[str, Any]:
    """Return the arguments of CLIPTextConfig, from the shapes and the archive's configuration.

    FrozenCLIP's archives do not say the number of heads: CLIP's are 64 wide; a narrower model is taken to have 4.
    """
    kind = find_kind(cond.get('_target_', ''))
    text = (cond.get('cfg') or {}).get('text') or {}
    try:
        vocabulary, width = tensors['embeddings.token_embedding.weight'].shape
        positions = tensors['embeddings.position_embedding.weight'].shape[0]
        inner = tensors['encoder.layers.0.mlp.fc1.weight'].shape[0]
    except KeyError as error:
        raise ValueError(f'The text encoder lacks {error.args[0]}.') from error
    activation = {'clip': 'quick_gelu', 'open_clip': 'gelu'}.get(kind)
    if kind == 'megatron':
        activation = 'quick_gelu' if text.get('activation', 'approx-gelu') == 'approx-gelu' else 'gelu'
    elif 'laion' in str(cond.get('version', '')).lower():
        activation = 'gelu'
    heads = heads or text.get('num_attention_heads') or (width // 64 if width % 64 == 0 else 4)
    return {
        'vocab_size': vocabulary,
        'hidden_size': width,
        'intermediate_size': inner,
        'num_hidden_layers': count_layers(tensors),
        'num_attention_heads': heads,
        'max_position_embeddings': positions,
        'hidden_act': activation,
        'layer_norm_eps': float(text.get('layernorm_epsilon', 1e-5)),
        'projection_dim': width,
        # where the end of a text stands is read for the pooled output only, which nothing here uses
        'bos_token_id': min(49406, vocabulary - 2),
        'eos_token_id': min(49407, vocabulary - 1),
        'pad_token_id': min(49407, vocabulary - 1),
    }


def to_nemo_text_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return CLIPTextModel's tensors (with or without ``text_model.``) as those of NeMo's FrozenCLIPEmbedder."""
    names = {key: key.removeprefix('text_model.') for key in tensors}
    state = {f'transformer.text_model.{name}': tensors[key] for key, name in names.items()}
    positions = tensors[next(key for key in names if key.endswith('position_embedding.weight'))].shape[0]
    state['transformer.text_model.embeddings.position_ids'] = torch.arange(positions)[None]
    return state
