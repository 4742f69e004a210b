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

"""What each key of a Stable Diffusion's configuration files means here: honoured, without effect, or refused by name.

The tables cover every argument of diffusers' UNet2DConditionModel and AutoencoderKL, of its schedulers that this package
reads, and of transformers' CLIPTextConfig; a test compares them with the installed releases. A key that no table knows, of a
later release or of another program, passes where its value is null or false, a switch that is off, and is refused
otherwise: it may change what the network computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from nemo_dreamfusion.checkpoints.file_kinds import by_channels
from nemo_dreamfusion.checkpoints.noise_schedule import (
    BETA_DEFAULTS,
    FLOW_SCHEDULER,
    PREDICTION_TYPES,
    compute_betas,
    compute_flow_sigmas,
    is_flow,
)

CHOOSE = 'Choose a text-to-image Stable Diffusion 1.x or 2.x.'


@dataclass(frozen=True)
class Only:
    """The values that a key may have, and what another one would mean."""

    values: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class KeyTable:
    """The keys of one configuration file.

    honoured: the network or the schedule is made with them, whatever their value.
    ignored: without effect on what guidance computes, whatever their value.
    only: honoured or without effect at some values, refused at all others.
    any_other: whether keys that stand in none of the three pass, whatever their value.
    """

    honoured: frozenset[str]
    ignored: frozenset[str]
    only: Mapping[str, Only]
    any_other: bool = False


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_LABELS = Only((None,), 'it is conditioned on class labels or on an image, and guidance has a text only')
_ADDED = Only((None,), 'it is conditioned on more than a text, as Stable Diffusion XL is')
_EMA = 'decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup'  # of diffusers' EMAModel
_QUANTIZED = Only((None,), 'its weights are quantized')

UNET = KeyTable(
    honoured=words("""
        sample_size in_channels out_channels center_input_sample flip_sin_to_cos freq_shift down_block_types mid_block_type
        up_block_types only_cross_attention block_out_channels layers_per_block downsample_padding mid_block_scale_factor
        act_fn norm_num_groups norm_eps cross_attention_dim transformer_layers_per_block
        reverse_transformer_layers_per_block attention_head_dim use_linear_projection upcast_attention
        resnet_time_scale_shift resnet_skip_time_act resnet_out_scale_factor time_embedding_dim time_embedding_act_fn
        timestep_post_act conv_in_kernel conv_out_kernel mid_block_only_cross_attention cross_attention_norm
    """),
    # dropout: the network is in eval mode; the others are read beside a key that is refused
    ignored=words(f"""
        dropout addition_time_embed_dim addition_embed_type_num_heads projection_class_embeddings_input_dim {_EMA}
    """),
    only={
        'num_attention_heads': Only((None,), 'diffusers refuses it; attention_head_dim holds the number of heads'),
        'dual_cross_attention': Only((False,), 'it attends to a text and an image'),
        'encoder_hid_dim': Only((None,), 'it projects embeddings of another text encoder or of an image'),
        'encoder_hid_dim_type': Only((None,), 'it projects embeddings of another text encoder or of an image'),
        'class_embed_type': _LABELS,
        'num_class_embeds': _LABELS,
        'class_embeddings_concat': Only((False,), _LABELS.reason),
        'addition_embed_type': _ADDED,
        'time_embedding_type': Only(('positional',), 'it takes noise levels instead of the steps of a schedule'),
        'time_cond_proj_dim': Only((None,), 'it was distilled and takes the guidance scale as an input (LCM)'),
        'attention_type': Only(('default',), 'it attends to boxes with texts (GLIGEN)'),
        'quantization_config': _QUANTIZED,
    },
)

ADDED_TEXT = 'text_time'
_XL_ADDED = {
    'addition_embed_type': Only((ADDED_TEXT,), 'Stable Diffusion XL takes a pooled text and the sizes of the picture'),
}
UNET_XL = KeyTable(
    honoured=UNET.honoured | words('addition_time_embed_dim projection_class_embeddings_input_dim'),
    ignored=UNET.ignored - words('addition_time_embed_dim projection_class_embeddings_input_dim'),
    only={**UNET.only, **_XL_ADDED},
)
CAMERA_NUMBERS = 16  # of a camera-to-world matrix
CAMERA = KeyTable(  # of the UNet of MVDream
    honoured=UNET.honoured,
    ignored=UNET.ignored - words('projection_class_embeddings_input_dim'),
    only={
        **UNET.only,
        'class_embed_type': Only(('projection',), 'MVDream projects the pose of the camera'),
        'projection_class_embeddings_input_dim': Only((CAMERA_NUMBERS,), 'a camera is a matrix of 16 numbers'),
    },
)

VAE = KeyTable(
    honoured=words("""
        down_block_types up_block_types block_out_channels layers_per_block act_fn latent_channels norm_num_groups
        scaling_factor shift_factor use_quant_conv use_post_quant_conv mid_block_add_attention
    """),
    ignored=words(
        f'sample_size force_upcast {_EMA}'
    ),  # the size of tiles; the type that diffusers' pipelines decode in
    only={
        'in_channels': Only((3,), 'guidance renders images of three channels'),
        'out_channels': Only((3,), 'guidance renders images of three channels'),
        'latents_mean': Only((None,), 'its latents are normalised by channel'),
        'latents_std': Only((None,), 'its latents are normalised by channel'),
        'quantization_config': _QUANTIZED,
    },
)

TEXT_ENCODER = KeyTable(
    honoured=words("""
        vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings hidden_act
        layer_norm_eps
    """),
    # the pooled output's and those of training
    ignored=words("""
        projection_dim attention_dropout initializer_range initializer_factor pad_token_id bos_token_id eos_token_id
    """),
    only={
        'model_type': Only(('clip_text_model', None), 'guidance reads CLIP text encoders'),
        'use_attention_mask': Only((False, None), 'it wants a mask of the padding, which CLIP has none of'),
        'quantization_config': _QUANTIZED,
    },
    any_other=True,  # files of 2022 list every setting that transformers had for generating texts
)

SCHEDULER = KeyTable(
    honoured=words("""
        num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr
    """),
    # how a picture is sampled; guidance samples none
    ignored=words("""
        clip_sample clip_sample_range set_alpha_to_one set_alpha_to_zero steps_offset thresholding
        dynamic_thresholding_ratio sample_max_value timestep_spacing skip_prk_steps variance_type solver_order algorithm_type
        solver_type lower_order_final euler_at_final use_karras_sigmas use_exponential_sigmas use_beta_sigmas use_lu_lambdas
        final_sigmas_type lambda_min_clipped flow_shift time_shift_type shift_terminal interpolation_type sigma_min sigma_max
        predict_x0 disable_corrector solver_p predictor_order corrector_order tau_func noise_sampler_seed eta tensor_format
    """),
    only={
        'prediction_type': Only(PREDICTION_TYPES, 'guidance knows no other prediction'),
        'predict_epsilon': Only(
            (True, None), 'prediction_type says what the network predicts'
        ),  # before prediction_type
        'use_flow_sigmas': Only((False, None), 'a flow-matching model has no noise schedule of betas'),
        'use_dynamic_shifting': Only((False, None), 'a flow-matching model has no noise schedule of betas'),
        'timestep_type': Only(('discrete',), 'the network takes noise levels instead of the steps of a schedule'),
    },
)

FLOW = KeyTable(  # of FlowMatchEulerDiscreteScheduler
    honoured=words("""
        num_train_timesteps shift use_dynamic_shifting base_shift max_shift base_image_seq_len max_image_seq_len
    """),
    # how a picture is sampled
    ignored=words("""
        invert_sigmas shift_terminal use_karras_sigmas use_exponential_sigmas use_beta_sigmas time_shift_type
        stochastic_sampling
    """),
    only={},
)

FLOW_SIGMAS = KeyTable(  # of the other schedulers, with use_flow_sigmas
    honoured=words('num_train_timesteps flow_shift'),
    ignored=(SCHEDULER.honoured | SCHEDULER.ignored) - words('num_train_timesteps flow_shift'),
    only={
        **SCHEDULER.only,
        'use_flow_sigmas': Only((True,), 'the schedule is that of a flow'),
        'prediction_type': Only(('flow_prediction',), 'a flow predicts its velocity'),
    },
)

TABLES = {'unet': UNET, 'vae': VAE, 'text_encoder': TEXT_ENCODER, 'scheduler': SCHEDULER}
CLASSES = {
    'unet': ('UNet2DConditionModel',),
    'vae': ('AutoencoderKL',),
    'text_encoder': ('CLIPTextModel', 'CLIPTextModelWithProjection'),
    'scheduler': tuple(BETA_DEFAULTS),
}
DEFAULTS: dict[str, dict[str, Any]] = {  # of the arguments that are compared below
    'unet': {'sample_size': None, 'in_channels': 4, 'out_channels': 4, 'cross_attention_dim': 1280},
    'vae': {'latent_channels': 4, 'scaling_factor': 0.18215},
    'text_encoder': {'hidden_size': 512},
}


def check_configuration(
    part: str,
    config: Mapping[str, Any],
    where: str,
    advice: str = CHOOSE,
    *,
    table: KeyTable | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Refuse a class or a key that may change what a part computes and that this package does not know.

    Args:
        part: ``unet``, ``vae``, ``text_encoder`` or ``scheduler``.
        config: its configuration file.
        where: that file, for the message.
        advice: what to set to choose another model.
        table: the keys of the part; None: those of a Stable Diffusion 1.x or 2.x.
        classes: that the file may name; likewise.

    Raises:
        ValueError: with the key, its value, what is allowed, and the way out.
    """
    if part == 'scheduler' and is_flow(config):
        check_table(FLOW if config.get('_class_name') == FLOW_SCHEDULER else FLOW_SIGMAS, config, where, advice)
        compute_flow_sigmas(config, where, image_tokens=256)
        return
    allowed = CLASSES[part] if classes is None else classes
    key, names = _class_names(config)
    if not set(names) <= set(allowed):
        kind = 'the scheduler of a plain diffusion model' if part == 'scheduler' else 'the class'
        refuse_key(where, key, ', '.join(names), f'it must be {kind} {" or ".join(allowed)}', advice)
    check_table(table or TABLES[part], config, where, advice)
    if part == 'scheduler':
        compute_betas(config, where)


def check_table(table: KeyTable, config: Mapping[str, Any], where: str, advice: str = CHOOSE) -> None:
    """Refuse a key that the table does not know, or a value that it does not allow; the errors are those above."""
    for key, value in config.items():
        if key in table.honoured or key in table.ignored or key.startswith('_'):
            continue
        if key in table.only:
            only = table.only[key]
            if not any(value == allowed and type(value) is type(allowed) for allowed in only.values):
                allowed = ' or '.join(json.dumps(allowed) for allowed in only.values)
                refuse_key(where, key, value, f'{only.reason}; it must be {allowed}', advice)
        elif value is not None and value is not False and not table.any_other:
            remedy = 'Remove the key from the file if the model is the same without it.'
            refuse_key(where, key, value, 'it may change what the model computes, and is not known here', remedy)


def check_whole(configs: Mapping[str, Mapping[str, Any]], name: str, advice: str = CHOOSE) -> None:
    """Refuse configurations that are each known and do not fit each other, or lack what guidance needs.

    Args:
        configs: by part: ``unet``, ``vae`` and ``text_encoder``.
        name: of the model, for messages.
        advice: what to set to choose another one.

    Raises:
        ValueError: with the key, its value, what is allowed, and the way out.
    """
    unet, vae, text = ({**DEFAULTS[part], **configs[part]} for part in DEFAULTS)
    file = f'unet/config.json of {name!r}'
    sides = _as_list(unet['sample_size'])
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        reason = 'it must be the side of the latents that the model was trained with'
        refuse_key(
            file,
            'sample_size',
            unet['sample_size'],
            reason,
            'Write it there: 64 for images of 512 pixels, 96 for 768.',
        )
    _check_latent_scale(vae, f'vae/config.json of {name!r}')
    channels = vae['latent_channels']
    if unet['in_channels'] != channels:
        kind = by_channels(unet['in_channels'])
        reason = f'latent_channels of the VAE is {channels}: this is {kind}, which cannot guide'
        refuse_key(file, 'in_channels', unet['in_channels'], reason, advice)
    if unet['out_channels'] not in (channels, 2 * channels):
        reason = f'it must be {channels}, the channels of the latents, or {2 * channels}, with a learned variance'
        refuse_key(file, 'out_channels', unet['out_channels'], reason, advice)
    if set(_as_list(unet['cross_attention_dim'])) != {text['hidden_size']}:
        reason = f'hidden_size of the text encoder is {text["hidden_size"]}: they are of different models'
        refuse_key(file, 'cross_attention_dim', unet['cross_attention_dim'], reason, advice)


def _check_latent_scale(vae: Mapping[str, Any], where: str) -> None:
    """Refuse a scale or a shift of the latents that is no number: latent = (mean - shift) scale."""
    scale, shift = vae['scaling_factor'], vae.get('shift_factor')
    if not _is_number(scale) or scale <= 0:
        remedy = 'Write it there: 0.18215 for Stable Diffusion 1.x and 2.x.'
        refuse_key(where, 'scaling_factor', scale, 'it must be a positive number', remedy)
    if shift is not None and not _is_number(shift):
        refuse_key(
            where, 'shift_factor', shift, 'it must be a number or null', 'Write null there for Stable Diffusion 1.x.'
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _class_names(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the key that names the class, diffusers' or transformers', and the names (none where there is no key)."""
    key = 'architectures' if config.get('_class_name') is None else '_class_name'
    return key, [str(name) for name in _as_list(config.get(key)) if name is not None]


def refuse_key(where: str, key: str, value: Any, reason: str, way_out: str) -> NoReturn:
    """Raise the ValueError of a key of a configuration file whose value cannot be used."""
    said = json.dumps(value, default=str)
    raise ValueError(f'{where} says {key}={said}, which cannot be used: {reason}. {way_out}')
