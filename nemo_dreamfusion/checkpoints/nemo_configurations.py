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

"""What each key of a NeMo archive's ``model_config.yaml`` means here: honoured, without effect, or refused by name.

The tables cover the arguments of NeMo 2.2.1's UNetModel, AutoencoderKL, Encoder and text encoders, the last release with
its multimodal collection. :mod:`configurations` says what happens to a key that no table knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_dreamfusion.checkpoints import nemo_config, nemo_text
from nemo_dreamfusion.checkpoints.configurations import (
    CHOOSE,
    KeyTable,
    Only,
    check_configuration,
    check_table,
    check_whole,
    refuse_key,
    words,
)

_NO_LEVELS = Only((None,), 'self-attention differs by level, as in no Stable Diffusion 1.x or 2.x')
_UNET = KeyTable(
    honoured=words("""
        image_size in_channels model_channels out_channels num_res_blocks attention_resolutions channel_mult num_heads
        num_head_channels transformer_depth context_dim use_linear_in_transformer
    """),
    # of training, of speed, or of attention blocks that a UNet with a text has none of
    ignored=words("""
        dropout use_checkpoint num_heads_upsample use_new_attention_order legacy offload_to_cpu from_pretrained from_NeMo
        use_flash_attention use_te_dpa use_te_fp8 unet_precision timesteps
    """),
    only={
        'dims': Only((2,), 'it is no model of images'),
        'conv_resample': Only((True,), 'it changes the size of features without convolutions'),
        'num_classes': Only((None,), 'it is conditioned on class labels or more than a text'),
        'adm_in_channels': Only((None,), 'it is conditioned on more than a text, as Stable Diffusion XL is'),
        'resblock_gn_groups': Only((32,), 'its normalisation has other groups'),
        'use_scale_shift_norm': Only((False,), 'it takes the time by scale and shift'),
        'resblock_updown': Only((False,), 'it changes the size of features within residual blocks'),
        'use_spatial_transformer': Only((True,), 'it takes no text'),
        'n_embed': Only((None,), 'it predicts indices of a codebook and no noise'),
        'disable_self_attentions': _NO_LEVELS,
        'num_attention_blocks': _NO_LEVELS,
        'disable_middle_self_attn': Only((False,), _NO_LEVELS.reason),
        'transformer_depth_middle': Only((None,), 'the depth differs in the middle block'),
        'lora_network_alpha': Only((None,), 'its weights are those of a LoRA'),
    },
)
_VAE = KeyTable(
    honoured=words('embed_dim ddconfig'),
    ignored=words(
        'from_pretrained from_NeMo ckpt_path ignore_keys image_key lossconfig monitor capture_cudagraph_iters'
    ),
    only={'colorize_nlabels': Only((None,), 'its images are maps of labels')},
)
_VAE_SIZES = KeyTable(
    honoured=words('ch out_ch ch_mult num_res_blocks in_channels z_channels'),
    ignored=words('dropout resolution give_pre_end tanh_out'),
    only={
        'attn_resolutions': Only(([],), 'it attends at more places than in the middle'),
        'double_z': Only((True,), 'it gives no variance of its latents'),
        'resamp_with_conv': Only((True,), 'it changes the size of features without convolutions'),
        'use_linear_attn': Only((False,), 'its attention is linear'),
        'attn_type': Only(('vanilla', 'vanilla-xformers', 'none'), 'its attention is of another kind'),
    },
)
_TEXT = KeyTable(
    honoured=words('version layer max_length cfg arch'),
    ignored=words('device freeze layer_idx use_fp16 cache_dir restore_from_path always_return_pooled'),
    only={'enable_lora_finetune': Only((False,), 'its weights are those of a LoRA')},
)
_MODEL = KeyTable(
    honoured=frozenset(),
    ignored=frozenset(),
    only={
        'conditioning_key': Only(('crossattn', None), 'it is conditioned on more than a text'),
        'given_betas': Only((None,), 'its noise schedule stands in another file'),
    },
    any_other=True,  # how it was trained
)
_REQUIRED = {
    'unet_config': 'in_channels model_channels out_channels num_res_blocks attention_resolutions channel_mult context_dim',
    'first_stage_config.ddconfig': 'ch out_ch ch_mult num_res_blocks in_channels z_channels',
}
_CLASSES = {'unet_config': ('UNetModel',), 'first_stage_config': ('AutoencoderKL',)}


def check_archive_config(config: Mapping[str, Any], name: str) -> None:
    """Refuse the configuration of an archive that says what is not known here, as far as it can be told without tensors.

    Args:
        config: ``model_config.yaml``.
        name: of the archive, for messages.

    Raises:
        ValueError: with the key, its value, what is allowed, and the way out.
    """
    if nemo_config.SECTION in config:  # written by this package, with diffusers' configurations
        configs = {
            part: dict(config[nemo_config.SECTION][part]) for part in ('unet', 'vae', 'scheduler', 'text_encoder')
        }
    else:
        _check_nemo_sections(config, name)
        configs = {
            'unet': nemo_config.unet_config(config),
            'vae': nemo_config.vae_config(config, {}, {}),
            'scheduler': nemo_config.scheduler_config(config, {}),
        }
    for part, found in configs.items():
        check_configuration(part, found, f'{part} of {name!r}')
    text = configs.get('text_encoder', {'hidden_size': configs['unet']['cross_attention_dim']})
    check_whole({**configs, 'text_encoder': text}, name)


def _check_nemo_sections(config: Mapping[str, Any], name: str) -> None:
    sections = {'unet_config': _UNET, 'first_stage_config': _VAE, 'cond_stage_config': _TEXT}
    found = {key: nemo_config.section(config, key) for key in sections}
    found['first_stage_config.ddconfig'] = nemo_config.section(found['first_stage_config'], 'ddconfig')
    for key, table in {**sections, 'first_stage_config.ddconfig': _VAE_SIZES}.items():
        where = f'{key} of {name!r}'
        target = str(found[key].get('_target_', found[key].get('target', ''))).rpartition('.')[2]
        if target and key in _CLASSES and target not in _CLASSES[key]:
            refuse_key(where, '_target_', target, f'it must be {" or ".join(_CLASSES[key])}', CHOOSE)
        check_table(table, {k: v for k, v in found[key].items() if k not in ('target', 'params')}, where)
        missing = [word for word in _REQUIRED.get(key, '').split() if found[key].get(word) is None]
        if missing:
            raise ValueError(
                f'{where} lacks {", ".join(missing)}: it is no NeMo Stable Diffusion 1.x or 2.x. {CHOOSE}'
            )
    check_table(_MODEL, config, f'model_config.yaml of {name!r}')
    nemo_text.find_kind(found['cond_stage_config'].get('_target_', ''))
    nemo_text.check_layer(found['cond_stage_config'])
