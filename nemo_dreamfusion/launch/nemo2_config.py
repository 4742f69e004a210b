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

"""Translate the configuration keys of NeMo's own DreamFusion (v1.23 - v2.5.0rc0; read at v2.2.1).

A key is either renamed, converted, left out with a reason, or means here what it meant there. docs/migrating.md shows it
all as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import yaml

from nemo_dreamfusion.launch.prompts_file import quoted
from nemo_dreamfusion.modules.guidance.old_options import translate_old_arguments
from nemo_dreamfusion.parts.checks import check_interval
from nemo_dreamfusion.parts.texts import escape_text

Settings = dict[str, Any]  # dotted key -> value

CHOICES = {  # the end of NeMo's _target_ -> our group and choice
    'TorchNGPNerf': ('nerf', 'torchngp'),
    'TCNNNerf': ('nerf', 'tcnn'),
    'StaticBackground': ('background', 'static'),
    'RandomBackground': ('background', 'random'),
    'TorchNGPBackground': ('background', 'torchngp'),
    'TCNNBackground': ('background', 'tcnn'),
    'BasicShading': ('material', 'basic_shading'),
    'TorchNGPVolumeRenderer': ('renderer', 'torchngp_raymarching'),
    'NerfaccVolumeBaseRenderer': ('renderer', 'nerfacc'),
    'NVDiffRastRenderer': ('renderer', 'nvdiffrast'),
    'stablediffusion_huggingface_pipeline.StableDiffusion': ('guidance', 'sd_huggingface'),
    'stablediffusion_nemo_pipeline.StableDiffusion': ('guidance', 'sd_nemo'),
    'stablediffusion_trt_pipeline.StableDiffusion': ('guidance', 'sd_trt'),
    'AggregatorDataModule': ('data', 'data'),
}

RENAMED = {
    'seed': 'model.seed',
    'model.resume_from_checkpoint': 'restore_from_path',
    'model.guidance_scale': 'model.guidance.mixing.guidance_scale',
    'model.guidance.model_key': 'model.guidance.source',
    'model.guidance.precision': 'model.guidance.networks.precision',
    'model.background.background': 'model.background.color',
    'model.background.base_background': 'model.background.color',
    'model.background.random_ratio': 'model.background.probability',
    'model.loss.lambda_sds': 'model.guidance_weight',
    'model.loss.lambda_2d_normal_smooth': 'model.loss.lambda_normal_smoothness_2d',
    'model.loss.lambda_3d_normal_smooth': 'model.loss.lambda_normal_smoothness_3d',
    'model.data.train_batch_size': 'model.data.train.batch_size',
    'model.data.train_dataset.radius_range': 'model.data.train.distance_range',
    'model.data.train_dataset.phi_range': 'model.data.train.azimuth_range_deg',
    'model.data.train_dataset.fovy_range': 'model.data.train.fov_range_deg',
    'model.data.train_dataset.uniform_sphere_rate': 'model.data.train.uniform_sphere_rate',
    'model.data.val_dataset.size': 'model.data.val.views',
    'model.data.val_dataset.width': 'model.data.val.width',
    'model.data.val_dataset.height': 'model.data.val.height',
    'model.data.test_dataset.size': 'model.data.test.views',
    'model.data.test_dataset.width': 'model.data.test.width',
    'model.data.test_dataset.height': 'model.data.test.height',
    **{
        f'model.background.background_net_cfg.{key}': f'model.background.net_cfg.{key}'
        for key in ('otype', 'activation', 'output_activation', 'n_neurons', 'n_hidden_layers')
    },
}

CONVERTED: dict[str, Callable[[Any], Settings]] = {
    'model.nerf.encoder_cfg.per_level_scale': lambda scale: (
        {} if scale is None else {'model.nerf.encoder_cfg.per_level_scale': scale}
    ),
    'model.guidance.t_range': lambda pair: {
        'model.guidance.timesteps.min_step_ratio': pair[0],
        'model.guidance.timesteps.max_step_ratio': pair[1],
    },
    'model.data.train_dataset.theta_range': lambda polar: {
        'model.data.train.elevation_range_deg': [90 - polar[1], 90 - polar[0]]
    },
    'model.data.train_dataset.width': lambda pixels: {
        'model.resolution': pixels,
        'model.latent_resolution': pixels,
    },
    'model.optim.lr': lambda rate: {'model.optim.lr': rate, 'model.encoding_lr_ratio': 1.0},  # one rate for everything
}
PAIRS = {'model.guidance.t_range': (0, 1), 'model.data.train_dataset.theta_range': (0, 180)}  # and their limits

EXPLAINED = {
    'enable_benchmark': 'the time of each step is logged (exp_manager.log_step_timing)',
    'benchmark_callback.*': 'the time of each step is logged (exp_manager.log_step_timing)',
    'model._target_': 'the command makes a DreamFusion',
    'model.update_extra_interval': 'set model.renderer.update_interval',
    'model.export_video': 'every fit leaves a turntable.mp4',
    'model.nerf.num_input_dims': 'points have three coordinates',
    'model.nerf.sigma_net_num_output_dims': 'there is one density',
    'model.nerf.features_net_num_output_dims': 'there are three colours',
    'model.nerf.encoder_cfg.encoder_type': 'the Torch-NGP field has a hash grid',
    'model.nerf.encoder_cfg.encoder_max_level': 'set start_level and level_interval there to open the levels one by one',
    'model.background.encoder_type': 'directions are encoded by frequencies',
    'model.background.encoder_input_dims': 'directions have three coordinates',
    'model.background.encoder_num_input_dims': 'directions have three coordinates',
    'model.background.encoder_cfg.*': 'directions are encoded by frequencies',
    'model.background.bound': 'directions have no bound',
    'model.background.num_output_dims': 'there are three colours',
    'model.background.background_net_num_output_dims': 'there are three colours',
    'model.renderer.dt_gamma': 'steps have one length',
    'model.renderer.grid_levels': 'the box has one grid',
    'model.renderer.render_step_size': 'the step follows from model.renderer.max_steps',
    'model.renderer.near_plane': 'rays start where they enter the box',
    'model.renderer.cone_angle': 'steps have one length',
    'model.renderer.alpha_thre': 'set model.renderer.transmittance_thresh',
    'model.renderer.quartet_file': 'the tetrahedral grid is made in code: see model.renderer.surface.cells',
    'model.guidance.sampler_type': 'score distillation makes one noise prediction and no sampling loop',
    'model.guidance.sampler_type=': 'score distillation makes one noise prediction and no sampling loop',
    'model.optim.foreach': 'our Adan is one fused pass',
    'model.data.train_shuffle': 'cameras are drawn anew at each step',
    'model.data.val_shuffle': 'an orbit is rendered in order',
    'model.data.test_shuffle': 'an orbit is rendered in order',
    'model.data.val_batch_size': 'views are rendered one at a time',
    'model.data.test_batch_size': 'views are rendered one at a time',
    'model.data.train_dataset.internal_batch_size': 'every image has a camera of its own',
    'model.data.train_dataset.height': 'pictures of a step are square: the width counts',
    'model.data.train_dataset.fovx_range': 'pixels are square: the vertical angle counts',
    'model.data.train_dataset.jitter': 'see model.data.train.jitter_position, jitter_target and jitter_up',
    'model.data.train_dataset.jitter_*': 'see model.data.train.jitter_position, jitter_target and jitter_up',
    'model.data.*.angle_overhead': 'set model.guidance.prompts.overhead_elevation_deg',
    'model.data.*.angle_front': 'set model.guidance.prompts.view_blend_deg',
}
OF_A_VOLUME = ('grid_resolution', 'density_thresh', 'update_interval')  # NeMo's mesh renderer has these keys too
WITHOUT_VOLUME = 'the first surface is that of the finished object: see mesh_resolution'
ADDED = ('trainer.', 'exp_manager.', 'model.optim.')  # where any key of Lightning, NeMo or the optimizer may stand


def is_nemo_2(config: Mapping) -> bool:
    """Return whether a configuration was written for NeMo's own DreamFusion."""
    model = config.get('model')
    target = model.get('_target_') if isinstance(model, Mapping) else None
    return isinstance(target, str) and target.startswith('nemo.collections.multimodal.')


def reason(key: str) -> str | None:
    """Return why a key is left out; None for one that is not."""
    return next((text for pattern, text in EXPLAINED.items() if fnmatchcase(key, pattern)), None)


def converted(key: str, value: Any) -> Settings:
    """Return our settings for one of the keys in ``CONVERTED``.

    Raises:
        ValueError: for a value that has not the form which NeMo's key asks for.
    """
    if key in PAIRS:
        check_interval(key, value, *PAIRS[key])
    return CONVERTED[key](value)


def choice(key: str, target: Any) -> str:
    """Return the group choice that stands for a ``_target_``, e.g. ``model/nerf=torchngp``; '' where none is needed.

    Raises:
        ValueError: for a class that NeMo's DreamFusion did not have.
    """
    if key.endswith('_dataset._target_'):
        return ''
    for ending, (group, name) in CHOICES.items():
        if isinstance(target, str) and target.endswith(ending):
            return f'model/{group}={name}'
    raise ValueError(f'{key} = {target!r} is no class of NeMo v2.2.1: choose one of nemo_dreamfusion/conf/model.')


def translate(settings: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Return overrides of ``dreamfusion.yaml`` that say the same as NeMo's settings, and what was left out and why.

    Args:
        settings: dotted key -> value, interpolations resolved.
    """
    choices, values, left_out = [], {}, {}
    for key, value in settings.items():
        if (why := reason(key)) is not None:
            left_out[key] = why
        elif key.endswith('._target_'):
            choices.append(choice(key, value))
        elif key in CONVERTED:
            values.update(converted(key, value))
        else:
            values[RENAMED.get(key, key)] = value
    if 'model/renderer=nvdiffrast' in choices:
        for key in (f'model.renderer.{name}' for name in OF_A_VOLUME):
            if values.pop(key, None) is not None:
                left_out[key] = WITHOUT_VOLUME
    _fit_validation(values)
    choices.append(f'model/optim={"adan" if values.get("model.optim.name") == "adan" else "adam"}')
    if any(key.startswith('model.loss.') for key in values):
        choices.append(f'model/loss={"dmtet" if "model.loss.lambda_mesh_normal" in values else "dreamfusion"}')
    overrides = [f'{"++" if key.startswith(ADDED) else ""}{key}={literal(value)}' for key, value in values.items()]
    return [c for c in choices if c] + overrides, left_out


def _fit_validation(values: Settings) -> None:
    """Validate at the end of a run that is shorter than the interval: NeMo's 100 steps are for one of 10,000."""
    interval, steps = (values.get(f'trainer.{key}') for key in ('val_check_interval', 'max_steps'))
    if type(interval) is int and type(steps) is int and 0 < steps < interval:
        values['trainer.val_check_interval'] = steps


def translate_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a command line in which NeMo's keys and old ones of ours are ours, and what was left out and why."""
    translated, left_out = [], {}
    for argument in arguments:
        key, equals, value = argument.partition('=')
        key = key.lstrip('+')
        if not equals or key.startswith('-') or key == 'model.optim.lr':
            translated.append(argument)
        elif (why := reason(key)) is not None:
            left_out[key] = why
        elif key in RENAMED:
            translated.append(f'{RENAMED[key]}={value}')
        elif key in CONVERTED:
            translated += [f'{name}={literal(one)}' for name, one in converted(key, _read(key, value)).items()]
        else:
            translated.append(argument)
    return translate_old_arguments(translated), left_out


def _read(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f'{key}={text} cannot be read as a value: is a bracket or a quote missing?') from error


def warning(left_out: Mapping[str, str]) -> str:
    """Return the one warning about keys of NeMo's that have no meaning here: a line for each reason."""
    keys: dict[str, list[str]] = {}
    for key, why in left_out.items():
        keys.setdefault(why, []).append(key)
    rows = [f'  {why}: {", ".join(found)}' for why, found in keys.items()]
    return '\n'.join(['Keys of NeMo 2 that are left out (docs/migrating.md):', *rows])


def literal(value: Any) -> str:
    """Write a value in Hydra's override grammar; nothing in a text of it is interpolated."""
    if value is None:
        return 'null'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(escape_text(value))
    if isinstance(value, Mapping):
        return '{' + ','.join(f'{key}:{literal(one)}' for key, one in value.items()) + '}'
    if isinstance(value, Sequence):
        return '[' + ','.join(literal(one) for one in value) + ']'
    return repr(value)
