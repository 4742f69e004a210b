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

"""Check what of a configuration can be checked without torch, NeMo and Lightning, whose imports take seconds.

A wrong key or value of the root, of the model's own options, of the trainer and of exp_manager is refused at once; the parts
of the model are checked with torch alone; ``validate_config`` checks the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from nemo_dreamfusion.callbacks.picture_names import check_background, check_pictures
from nemo_dreamfusion.export.asset_options import check_asset_options
from nemo_dreamfusion.export.mesh_files import SUFFIXES
from nemo_dreamfusion.launch.known_fields import known_fields
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.models.plain_options import KEYS, check_plain_options
from nemo_dreamfusion.parts.build import build, read_options
from nemo_dreamfusion.parts.checks import check_choice, check_keys, check_positive, check_range, check_types, refuse
from nemo_dreamfusion.viewer.options import ViewerOptions

MODES = ('fit', 'validate', 'test', 'render', 'view', 'export-mesh')
LEVELS = ('debug', 'info', 'warning', 'error')
OF_LAUNCHERS = ('rank', 'run', 'hydra', 'defaults')  # keys that launchers and Hydra add at the root
# Keys at the root that configurations of earlier releases do not have
_OF_PICTURES = ('pictures', 'picture_background', 'turntable_frames', 'turntable_size')
MAY_BE_MISSING = (*_OF_PICTURES, 'mesh_faces', 'texture_size', 'viewer')
MAY_BE_NULL = ('ema', 'step_timing_kwargs')  # NeMo reads the keys of the other mappings of exp_manager


def add_missing(cfg: DictConfig, shipped: Mapping[str, Any]) -> None:
    """Give a configuration of an earlier release the keys that it does not have, as they are shipped."""
    with open_dict(cfg):
        for key in MAY_BE_MISSING:
            if key not in cfg:
                cfg[key] = shipped[key]


def check_plain(cfg: DictConfig, shipped: Mapping[str, Any]) -> dict[str, Any]:
    """Check keys and values that need no class to be known; return the configuration as plain containers.

    Args:
        cfg: the configuration of a run.
        shipped: ``conf/dreamfusion.yaml``, which says what keys there are.

    Raises:
        ValueError: one sentence on the first thing that is wrong, with the key and what to set.
    """
    plain = to_plain(cfg)
    check_keys('', plain, {*shipped, *OF_LAUNCHERS})
    if 'mode' in plain:
        check_choice('mode', plain['mode'], MODES)
    for node in ('model', 'trainer', 'exp_manager'):
        if not isinstance(plain.get(node), Mapping):
            advice = 'Take it from nemo_dreamfusion/conf/dreamfusion.yaml.'
            refuse(node, plain.get(node), 'a mapping of keys to values', advice)
    _check_root(plain, shipped)
    _check_paths(plain)
    check_keys('model', plain['model'], KEYS)
    _check_trainer(plain['trainer'])
    _check_exp_manager(plain['exp_manager'])
    if plain['mode'] == 'fit':
        check_plain_options(plain['model'])
    read_options('viewer', ViewerOptions, plain.get('viewer')).check()
    return plain


def check_parts(plain: Mapping[str, Any]) -> None:
    """Build the parts of a model that need torch alone, and forget them; where NeMo is loaded, the model does it itself.

    Raises:
        ValueError: as :func:`nemo_dreamfusion.parts.build.build`.
    """
    if plain['mode'] != 'fit' or 'nemo.core' in sys.modules:
        return
    import torch

    from nemo_dreamfusion.modules.backgrounds.base import Background
    from nemo_dreamfusion.modules.losses.base import Losses
    from nemo_dreamfusion.modules.materials.base import Material
    from nemo_dreamfusion.modules.nerf.base import RadianceField
    from nemo_dreamfusion.modules.renderers.base import Renderer

    kinds = {'nerf': RadianceField, 'material': Material, 'background': Background, 'loss': Losses}
    renderer = plain['model']['renderer']
    if not (isinstance(renderer, Mapping) and renderer.get('surface')):  # a grid of tetrahedra is not made twice
        kinds['renderer'] = Renderer
    with torch.random.fork_rng(devices=[]):
        for name, kind in kinds.items():
            build(f'model.{name}', plain['model'][name], kind)


def _check_root(plain: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
    for key in shipped:
        if key not in plain and key not in OF_LAUNCHERS:
            raise ValueError(f'{key} is missing: set it as nemo_dreamfusion/conf/dreamfusion.yaml does.')
    check_choice('log_level', plain['log_level'], LEVELS)
    if plain['mesh_resolution'] != 0 or plain['mode'] == 'export-mesh':  # 0: no mesh at the end of a fit
        check_range('mesh_resolution', plain['mesh_resolution'], 8, 1024, integer=True)
    check_asset_options(plain['mesh_faces'], plain['texture_size'])
    check_range('turntable_frames', plain['turntable_frames'], 0, 10**4, integer=True)
    check_range('turntable_size', plain['turntable_size'], 16, 2048, integer=True)
    check_pictures('pictures', plain['pictures'])
    check_background('picture_background', plain['picture_background'])
    check_range('preview_interval', plain['preview_interval'], 0, 10**9, integer=True)
    check_range('max_skipped_in_a_row', plain['max_skipped_in_a_row'], 1, 10**9, integer=True)
    check_types('', {'name': plain['name'], 'mesh_fname': plain['mesh_fname']}, {'name': str, 'mesh_fname': str})
    check_types('', {'restore_from_path': plain['restore_from_path']}, {'restore_from_path': str | None})
    if plain['mode'] == 'export-mesh' and Path(plain['mesh_fname']).suffix.lower() not in SUFFIXES:
        refuse('mesh_fname', plain['mesh_fname'], f'the name of a file that ends in {", ".join(SUFFIXES)}')


def _check_paths(plain: Mapping[str, Any]) -> None:
    """Refuse a mode whose file is not named."""
    if plain['mode'] != 'fit' and not plain['restore_from_path']:
        raise ValueError(f'mode={plain["mode"]} needs a finished object: set restore_from_path=<file>.nemo.')
    edit = plain['model'].get('edit')
    source = edit.get('source_prompt') if isinstance(edit, Mapping) else None
    if plain['mode'] == 'fit' and not plain['restore_from_path'] and source is not None:
        raise ValueError(
            'model.edit.source_prompt is set, and there is no object to edit: set restore_from_path=<file>.nemo.'
        )
    if plain['mode'] == 'render':
        if not plain.get('camera_path'):
            raise ValueError('mode=render needs the cameras of a video: set camera_path=<file>.json.')
        check_types('', {'camera_path': plain['camera_path']}, {'camera_path': str})


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    ours = {'callbacks', 'plugins', 'logger', 'enable_checkpointing'}
    check_keys('trainer', trainer, known_fields('trainer') or ())
    for key in ('logger', 'enable_checkpointing'):
        check_choice(f'trainer.{key}', trainer.get(key), (False,), f'exp_manager does it: set trainer.{key}=false.')
    for key in ours & set(trainer) - {'logger', 'enable_checkpointing'}:
        raise ValueError(f'trainer.{key} is set by the program: leave it out.')
    check_range('trainer.max_steps', trainer.get('max_steps'), 1, 10**9, integer=True)
    for key in ('num_nodes', 'accumulate_grad_batches', 'log_every_n_steps'):
        check_range(f'trainer.{key}', trainer.get(key, 1), 1, 10**6, integer=True)
    if isinstance(trainer.get('devices'), int):
        check_range('trainer.devices', trainer['devices'], -1, 1024, integer=True)
    if trainer.get('gradient_clip_val') is not None:
        check_positive('trainer.gradient_clip_val', trainer['gradient_clip_val'])
    if trainer.get('max_time') is not None:
        advice = (
            'It counts all runs of a folder together: set exp_manager.max_time_per_run=days:hours:minutes:seconds.'
        )
        refuse('trainer.max_time', trainer['max_time'], 'left out', advice)
    _check_that_it_trains(trainer)


def _check_that_it_trains(trainer: Mapping[str, Any]) -> None:
    """Refuse settings with which Lightning makes no step, and leaves what it began with as if it were finished."""
    if trainer.get('fast_dev_run'):
        refuse('trainer.fast_dev_run', trainer['fast_dev_run'], 'false', 'For a trial set trainer.max_steps=10.')
    share = trainer.get('limit_train_batches')
    if isinstance(share, int | float) and (share * trainer['max_steps'] if isinstance(share, float) else share) < 1:
        refuse('trainer.limit_train_batches', share, 'at least one step', 'Leave it out, and set trainer.max_steps.')
    if trainer.get('max_epochs') not in (None, -1):
        check_range('trainer.max_epochs', trainer['max_epochs'], 1, 10**9, integer=True)


def _check_exp_manager(settings: Mapping[str, Any]) -> None:
    check_keys('exp_manager', settings, known_fields('exp_manager') or ())
    for key, value in settings.items():
        inner = known_fields(f'exp_manager.{key}')
        if inner and not (value is None and key in MAY_BE_NULL):
            if not isinstance(value, Mapping):
                refuse(f'exp_manager.{key}', value, 'a mapping of keys to values')
            check_keys(f'exp_manager.{key}', value, inner)
    _check_average(settings.get('ema') or {})


def _check_average(ema: Mapping[str, Any]) -> None:
    for key in ('enable', 'validate_original_weights'):
        check_choice(f'exp_manager.ema.{key}', ema.get(key, False), (True, False))
    check_range('exp_manager.ema.decay', ema.get('decay', 0.999), 0, 1, high_open=True)
    check_positive('exp_manager.ema.every_n_steps', ema.get('every_n_steps', 1), integer=True)
    advice = 'The scene is small: set exp_manager.ema.cpu_offload=false.'
    check_choice('exp_manager.ema.cpu_offload', ema.get('cpu_offload', False), (False,), advice)
