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

"""Check a whole configuration before any work: keys, types, ranges, and combinations that cannot work.

The parts of the model check themselves when they are built, which touches no file either. What Lightning and exp_manager
refuse at once, they refuse themselves, in ``trainer.py``; what would end a run or lose its work later is refused here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.callbacks.pictures import check_background, check_pictures
from nemo_dreamfusion.data.camera_path import read_camera_path
from nemo_dreamfusion.data.datamodule import CameraDataModule
from nemo_dreamfusion.export.assets import check_asset_options
from nemo_dreamfusion.export.mesh_files import SUFFIXES
from nemo_dreamfusion.launch.known_fields import exp_manager_schema
from nemo_dreamfusion.launch.loggers import check_loggers
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.launch.processes import check_processes, count_processes
from nemo_dreamfusion.models.dreamfusion import LOGGED
from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.models.optimizers import (
    NOT_THE_OPTIMIZERS_OWN,
    check_optim,
    check_param_groups,
    check_schedule,
    optimizer_class,
    refuse_sharding,
)
from nemo_dreamfusion.models.options import OPTIMIZED, check_node
from nemo_dreamfusion.parts.build import build, read_options
from nemo_dreamfusion.parts.checks import (
    check_choice,
    check_keys,
    check_positive,
    check_range,
    check_types,
    first_line,
    hints_of,
    refuse,
)
from nemo_dreamfusion.parts.files import check_writable
from nemo_dreamfusion.parts.precision import check_scene_precision
from nemo_dreamfusion.parts.texts import escape_texts
from nemo_dreamfusion.viewer.options import ViewerOptions, require_viser
from nemo_dreamfusion.viewer.server import check_port

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


def check_config(cfg: DictConfig, shipped: Mapping[str, Any]) -> None:
    """Check everything but the parts of the model.

    Args:
        cfg: the configuration of a run.
        shipped: ``conf/dreamfusion.yaml``, which says what keys there are.

    Raises:
        ValueError: one sentence on the first thing that is wrong, with the key and what to set.
    """
    plain = to_plain(cfg)
    check_keys('', plain, {*shipped, *OF_LAUNCHERS})
    for node in ('model', 'trainer', 'exp_manager'):
        if not isinstance(plain.get(node), Mapping):
            advice = 'Take it from nemo_dreamfusion/conf/dreamfusion.yaml.'
            refuse(node, plain.get(node), 'a mapping of keys to values', advice)
    _check_root(plain, shipped)
    _check_files(plain)
    check_node(plain['model'])
    trainer = _check_trainer(plain['trainer'])
    _check_exp_manager(plain['exp_manager'])
    _check_viewer(plain, trainer.world_size)
    if plain['mode'] != 'export-mesh':
        data = build('model.data', plain['model'].get('data'), CameraDataModule)
        _check_batches(plain['trainer'], trainer, data, fits=plain['mode'] == 'fit')
    if plain['mode'] == 'fit':
        check_loggers(plain['exp_manager'])
        _check_optimizer(plain['model'], trainer.max_steps)
        _check_combinations(plain, trainer.world_size)


def _check_root(plain: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
    for key in shipped:
        if key not in plain and key not in OF_LAUNCHERS:
            raise ValueError(f'{key} is missing: set it as nemo_dreamfusion/conf/dreamfusion.yaml does.')
    check_choice('mode', plain['mode'], MODES)
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


def _check_files(plain: Mapping[str, Any]) -> None:
    """Check the files that are read and written besides the run's folder."""
    if plain['mode'] != 'fit' and not plain['restore_from_path']:
        raise ValueError(f'mode={plain["mode"]} needs a finished object: set restore_from_path=<file>.nemo.')
    if plain['mode'] == 'fit' and not plain['restore_from_path'] and _source_prompt(plain) is not None:
        raise ValueError(
            'model.edit.source_prompt is set, and there is no object to edit: set restore_from_path=<file>.nemo.'
        )
    if plain['restore_from_path']:
        check_archive(plain['restore_from_path'])
    if plain['mode'] == 'render':
        if not plain.get('camera_path'):
            raise ValueError('mode=render needs the cameras of a video: set camera_path=<file>.json.')
        check_types('', {'camera_path': plain['camera_path']}, {'camera_path': str})
        read_camera_path(plain['camera_path'], 1)
    if plain['mode'] == 'export-mesh':
        check_writable(Path(plain['mesh_fname']).resolve().parent, 'mesh_fname')


def _source_prompt(plain: Mapping[str, Any]) -> Any:
    edit = plain['model'].get('edit')
    return edit.get('source_prompt') if isinstance(edit, Mapping) else None


def _check_viewer(plain: Mapping[str, Any], processes: int) -> None:
    """Check the viewer, and where it will be opened that its package and its port are there."""
    options = read_options('viewer', ViewerOptions, plain.get('viewer'))
    options.check()
    if plain['mode'] == 'view' or (plain['mode'] == 'fit' and options.enabled):
        if processes > 1:  # pausing one would leave the others waiting for it
            refuse('viewer.enabled', True, f'false with {processes} processes', 'Set trainer.devices=1.')
        require_viser()
        check_port(options.port)


def _check_trainer(trainer: Mapping[str, Any]) -> pl.Trainer:
    ours = {'callbacks', 'plugins', 'logger', 'enable_checkpointing'}
    check_keys('trainer', trainer, inspect.signature(pl.Trainer).parameters)
    for key in ('logger', 'enable_checkpointing'):
        check_choice(f'trainer.{key}', trainer.get(key), (False,), f'exp_manager does it: set trainer.{key}=false.')
    for key in ours & set(trainer) - {'logger', 'enable_checkpointing'}:
        raise ValueError(f'trainer.{key} is set by the program: leave it out.')
    check_types('trainer', trainer, hints_of(pl.Trainer))
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
    check_scene_precision(trainer.get('precision'))
    _check_that_it_trains(trainer)
    try:
        asked = count_processes(trainer)
    except Exception as error:
        raise ValueError(f'trainer: Lightning refuses these settings: {first_line(error)}.') from error
    check_processes(asked, trainer.get('num_nodes') or 1)
    try:
        return pl.Trainer(**trainer)
    except Exception as error:  # Lightning's own words: an accelerator that is not there, a precision that is none
        raise ValueError(f'trainer: Lightning refuses these settings: {first_line(error)}.') from error


def _check_that_it_trains(trainer: Mapping[str, Any]) -> None:
    """Refuse settings with which Lightning makes no step, and leaves what it began with as if it were finished."""
    if trainer.get('fast_dev_run'):
        refuse('trainer.fast_dev_run', trainer['fast_dev_run'], 'false', 'For a trial set trainer.max_steps=10.')
    share = trainer.get('limit_train_batches')
    if share is not None and (share * trainer['max_steps'] if isinstance(share, float) else share) < 1:
        refuse('trainer.limit_train_batches', share, 'at least one step', 'Leave it out, and set trainer.max_steps.')
    if trainer.get('max_epochs') not in (None, -1):
        check_range('trainer.max_epochs', trainer['max_epochs'], 1, 10**9, integer=True)


def _check_batches(settings: Mapping[str, Any], trainer: pl.Trainer, data: CameraDataModule, *, fits: bool) -> None:
    """Refuse limits and intervals that Lightning compares with the data, once the guidance is loaded."""
    steps = data.steps_per_epoch or trainer.max_steps
    cameras = {'val': data.val_cameras, 'test': data.test_cameras}
    batches = {'train': steps, **{stage: -(-len(orbit) // trainer.world_size) for stage, orbit in cameras.items()}}
    for stage, length in batches.items():
        share = settings.get(f'limit_{stage}_batches')
        if isinstance(share, float) and 0 < share and int(length * share) == 0:
            allowed = f'0, a whole number, or a share of at least {1 / length:.3g}: there are {length} batches'
            refuse(f'trainer.limit_{stage}_batches', share, allowed)
    limit = settings.get('overfit_batches') or trainer.limit_train_batches
    steps = int(steps * limit) if isinstance(limit, float) else min(steps, limit)
    interval = trainer.val_check_interval
    if fits and isinstance(interval, int) and interval > steps and trainer.check_val_every_n_epoch is not None:
        advice = (
            f'Set trainer.val_check_interval={steps}, or trainer.check_val_every_n_epoch=null to count over epochs.'
        )
        refuse('trainer.val_check_interval', interval, f'at most the {steps} steps of an epoch', advice)


def _check_optimizer(model: Mapping[str, Any], max_steps: int) -> None:
    optim = model.get('optim')
    if not isinstance(optim, Mapping):
        refuse('model.optim', optim, 'a mapping with name and lr', 'Choose model/optim=adam or model/optim=adan.')
    if optim.get('lr') is None:
        raise ValueError('model.optim.lr is missing: set model.optim.lr=2e-3, for example.')
    check_optim(optim)
    check_param_groups(model.get('optim_param_groups'), optim, OPTIMIZED)
    for key in ('eps', 'weight_decay'):
        check_range(f'model.optim.{key}', optim.get(key, 0.0), 0)
    kind = optimizer_class(optim)
    options = {key: value for key, value in optim.items() if key not in NOT_THE_OPTIMIZERS_OWN}
    groups = [{'params': [torch.nn.Parameter(torch.zeros(1))], 'lr': optim['lr']} for _ in range(2)]  # as in the model
    try:
        optimizer = kind(groups, **options)
    except Exception as error:
        raise ValueError(f'model.optim: {kind.__name__} refuses these settings: {first_line(error)}.') from error
    if 'sched' in optim:
        check_schedule(optim['sched'], optimizer, max_steps)


def _check_exp_manager(settings: Mapping[str, Any]) -> None:
    schema = exp_manager_schema()
    check_keys('exp_manager', settings, schema)
    for key, value in settings.items():
        if OmegaConf.is_config(schema[key]) and not (value is None and key in MAY_BE_NULL):
            if not isinstance(value, Mapping):
                refuse(f'exp_manager.{key}', value, 'a mapping of keys to values')
            check_keys(f'exp_manager.{key}', value, schema[key])
    try:
        merged = to_plain(OmegaConf.merge(schema, escape_texts(settings)))
    except OmegaConfBaseException as error:
        raise ValueError(f'exp_manager.{error.full_key}: {first_line(error)}.') from error
    _check_average(settings.get('ema') or {})
    if merged['create_checkpoint_callback']:
        _check_checkpointing(merged['checkpoint_callback_params'])
    if merged['create_early_stopping_callback']:
        name = 'exp_manager.early_stopping_callback_params.monitor'
        check_choice(name, merged['early_stopping_callback_params']['monitor'], LOGGED, f'Set {name}=loss.')


def _check_average(ema: Mapping[str, Any]) -> None:
    for key in ('enable', 'validate_original_weights'):
        check_choice(f'exp_manager.ema.{key}', ema.get(key, False), (True, False))
    check_range('exp_manager.ema.decay', ema.get('decay', 0.999), 0, 1, high_open=True)
    check_positive('exp_manager.ema.every_n_steps', ema.get('every_n_steps', 1), integer=True)
    advice = 'The scene is small: set exp_manager.ema.cpu_offload=false.'
    check_choice('exp_manager.ema.cpu_offload', ema.get('cpu_offload', False), (False,), advice)


def _check_checkpointing(params: Mapping[str, Any]) -> None:
    """Refuse what Lightning does not take, or what would fail at the first checkpoint, after many steps."""
    name = 'exp_manager.checkpoint_callback_params'
    takes = inspect.signature(ModelCheckpoint).parameters
    try:
        ModelCheckpoint(**{key: value for key, value in params.items() if key in takes and key != 'dirpath'})
    except Exception as error:
        raise ValueError(f'{name}: {first_line(error)}.') from error
    if params['save_top_k'] != 0:  # Lightning knows the step too, and keeps all of them (-1) by no value
        monitors = (*LOGGED, 'step', *[None] * (params['save_top_k'] == -1))
        check_choice(f'{name}.monitor', params['monitor'], monitors, f'Set {name}.monitor=loss.')
    advice = f'Checkpoints are written whole or not at all, which takes a moment: set {name}.async_save=false.'
    check_choice(f'{name}.async_save', params['async_save'], (False,), advice)


def _check_combinations(plain: Mapping[str, Any], processes: int) -> None:
    """Refuse what is right by itself and cannot work with the rest."""
    model = plain['model']
    name = model['optim'].get('name')
    if processes == 1 and '_target_' not in model['optim'] and str(name).startswith('sharded_'):
        refuse_sharding(name)
    bounds = [model[part].get('bound') for part in ('nerf', 'renderer') if isinstance(model.get(part), Mapping)]
    if len(bounds) == 2 and None not in bounds and bounds[0] != bounds[1]:
        refuse('model.renderer.bound', bounds[1], f'model.nerf.bound, {bounds[0]}', 'Leave model.renderer.bound out.')
    params = plain['exp_manager'].get('checkpoint_callback_params', {})
    monitor, slug = str(params.get('monitor', 'val_loss')), str(model.get('prompt')).lower().replace(' ', '-')
    path = f'{plain["exp_manager"].get("exp_dir")}/{slug}'
    if params.get('save_top_k', 3) not in (0, -1) and monitor in path:
        raise ValueError(
            f'exp_manager.checkpoint_callback_params.save_top_k = {params.get("save_top_k", 3)} cannot be resumed here: '
            f'NeMo reads the value of {monitor!r} from the path of a checkpoint, and the folder {path} has that word in its '
            'name. Set save_top_k=0 (the last two checkpoints are kept all the same).'
        )
