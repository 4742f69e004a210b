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

"""A whole configuration is checked before any work: keys, types, ranges, and combinations that cannot work.

The parts of the model check themselves when they are built, which touches no file either.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.errors import CompactHydraException
from lightning.pytorch.callbacks import ModelCheckpoint
from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS
from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS
from nemo.utils.exp_manager import ExpManagerConfig, StatelessTimer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.data.datamodule import CameraDataModule
from nemo_dreamfusion.models.dreamfusion import PARTS
from nemo_dreamfusion.models.optimizers import NOT_THE_OPTIMIZERS_OWN, check_optim
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.checks import check_choice, check_keys, check_positive, check_range, nearest, refuse
from nemo_dreamfusion.parts.types import check_types, hints_of

MODES = ('fit', 'validate', 'test', 'export-mesh')
LEVELS = ('debug', 'info', 'warning', 'error')
OF_LAUNCHERS = ('rank', 'run', 'hydra', 'defaults')  # keys that launchers and Hydra add at the root
OF_NEMO = ('target', 'nemo_version', '_target_', *PARTS, 'optim', 'data')


def check_config(cfg: DictConfig, shipped: Mapping[str, Any]) -> dict[str, Any]:
    """Checks everything but the parts of the model, and gives the configuration back as plain containers.

    Args:
        cfg: the configuration of a run.
        shipped: the main YAML file that comes with the project: what keys there are.

    Raises:
        ValueError: one sentence on the first thing that is wrong, with the key and what to set.
    """
    plain = _plain(cfg)
    check_keys('', plain, {*shipped, *OF_LAUNCHERS})
    for node in ('model', 'trainer', 'exp_manager'):
        if not isinstance(plain.get(node), Mapping):
            refuse(
                node, plain.get(node), 'a mapping of keys to values', 'Take it from examples/conf/dreamfusion.yaml.'
            )
    _check_root(plain, shipped)
    check_keys('model', plain['model'], {*shipped['model'], *OF_NEMO})
    _check_trainer(plain['trainer'])
    _check_exp_manager(plain['exp_manager'])
    if plain['mode'] != 'export-mesh':
        build('model.data', plain['model'].get('data'), CameraDataModule)
    if plain['mode'] == 'fit':
        _check_optimizer(plain['model'].get('optim'))
        _check_together(plain)
    return plain


def _plain(cfg: DictConfig) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:  # an interpolation of what is not there
        raise ValueError(f'{error.full_key or "The configuration"}: {_first_line(error)}.') from error


def _check_root(plain: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
    for key in shipped:
        if key not in plain and key not in OF_LAUNCHERS:
            raise ValueError(f'{key} is missing: set it as examples/conf/dreamfusion.yaml does.')
    check_choice('mode', plain['mode'], MODES)
    check_choice('log_level', plain['log_level'], LEVELS)
    check_range('mesh_resolution', plain['mesh_resolution'], 8, 1024, integer=True)
    check_range('preview_interval', plain['preview_interval'], 1, 10**9, integer=True)
    check_range('max_skipped_in_a_row', plain['max_skipped_in_a_row'], 1, 10**9, integer=True)
    check_types('', {'name': plain['name'], 'mesh_fname': plain['mesh_fname']}, {'name': str, 'mesh_fname': str})
    check_types('', {'restore_from_path': plain['restore_from_path']}, {'restore_from_path': str | None})
    if plain['mode'] == 'export-mesh' and Path(plain['mesh_fname']).suffix not in ('.glb', '.obj', '.ply'):
        refuse('mesh_fname', plain['mesh_fname'], 'the name of a .glb, .obj or .ply file')


def _check_trainer(trainer: Mapping[str, Any]) -> None:
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
    try:
        pl.Trainer(**trainer)
    except Exception as error:  # Lightning's own words: an accelerator that is not there, a precision that is none
        raise ValueError(f'trainer: Lightning refuses these settings: {_first_line(error)}') from error


@cache
def _schema() -> DictConfig:
    return OmegaConf.structured(ExpManagerConfig)


def _check_exp_manager(settings: Mapping[str, Any]) -> None:
    schema = _schema()
    check_keys('exp_manager', settings, schema)
    for key, value in settings.items():
        if OmegaConf.is_config(schema[key]) and isinstance(value, Mapping):
            check_keys(f'exp_manager.{key}', value, schema[key])
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(schema, dict(settings)))
    except OmegaConfBaseException as error:
        raise ValueError(f'exp_manager.{error.full_key}: {_first_line(error)}.') from error
    for key in ('resume_if_exists', 'create_checkpoint_callback', 'create_tensorboard_logger', 'create_wandb_logger'):
        check_choice(f'exp_manager.{key}', merged[key], (True, False))
    _check_average(settings.get('ema') or {})
    if merged['max_time_per_run'] is not None:
        try:
            StatelessTimer(merged['max_time_per_run'])
        except Exception as error:
            refuse(
                'exp_manager.max_time_per_run', merged['max_time_per_run'], 'days:hours:minutes:seconds', str(error)
            )
    if merged['create_checkpoint_callback']:
        _check_checkpointing(merged['checkpoint_callback_params'])


def _check_average(ema: Mapping[str, Any]) -> None:
    check_choice('exp_manager.ema.enable', ema.get('enable', False), (True, False))
    check_range('exp_manager.ema.decay', ema.get('decay', 0.999), 0, 1, high_open=True)
    check_positive('exp_manager.ema.every_n_steps', ema.get('every_n_steps', 1), integer=True)
    check_choice(
        'exp_manager.ema.validate_original_weights', ema.get('validate_original_weights', False), (True, False)
    )
    advice = 'The scene is small: set exp_manager.ema.cpu_offload=false.'
    check_choice('exp_manager.ema.cpu_offload', ema.get('cpu_offload', False), (False,), advice)


def _check_checkpointing(merged: Mapping[str, Any]) -> None:
    name = 'exp_manager.checkpoint_callback_params'
    takes = inspect.signature(ModelCheckpoint).parameters
    try:
        ModelCheckpoint(**{key: value for key, value in merged.items() if key in takes and key != 'dirpath'})
    except Exception as error:
        raise ValueError(f'{name}: {_first_line(error)}') from error
    if merged['save_top_k'] not in (0, -1) and merged['monitor'] is None:
        refuse(f'{name}.monitor', None, 'the name of a logged value', f'Set {name}.monitor=loss.')


def _check_optimizer(optim: Any) -> None:
    if not isinstance(optim, Mapping):
        refuse('model.optim', optim, 'a mapping with name and lr', 'Choose model/optim=adam or model/optim=adan.')
    if optim.get('lr') is None:
        raise ValueError('model.optim.lr is missing: set model.optim.lr=2e-3, for example.')
    check_optim(optim)
    for key in ('eps', 'weight_decay'):
        check_range(f'model.optim.{key}', optim.get(key, 0.0), 0)
    name, sched = optim.get('name') or 'adam', optim.get('sched')
    if '_target_' not in optim:
        kind = getattr(AVAILABLE_OPTIMIZERS[name], 'kind', AVAILABLE_OPTIMIZERS[name])  # of a sharded one: its own
        options = {key: value for key, value in optim.items() if key not in NOT_THE_OPTIMIZERS_OWN}
        try:
            kind([torch.nn.Parameter(torch.zeros(1))], **options)
        except Exception as error:
            raise ValueError(f'model.optim: {name} refuses these settings: {_first_line(error)}') from error
    if sched is not None:
        if not isinstance(sched, Mapping):
            refuse('model.optim.sched', sched, 'a mapping with a name')
        check_choice('model.optim.sched.name', sched.get('name'), sorted(AVAILABLE_SCHEDULERS))


def _check_together(plain: Mapping[str, Any]) -> None:
    """What is right by itself and cannot work with the rest."""
    model, params = plain['model'], plain['exp_manager'].get('checkpoint_callback_params') or {}
    bounds = [model[part].get('bound') for part in ('nerf', 'renderer') if isinstance(model.get(part), Mapping)]
    if len(bounds) == 2 and None not in bounds and bounds[0] != bounds[1]:
        refuse('model.renderer.bound', bounds[1], f'model.nerf.bound, {bounds[0]}', 'Leave model.renderer.bound out.')
    monitor, path = (
        str(params.get('monitor', 'val_loss')),
        f'{plain["exp_manager"].get("exp_dir")}/{_slug(str(model.get("prompt")))}',
    )
    top = params.get('save_top_k', 3)
    if top not in (0, -1) and monitor in path:
        raise ValueError(
            f'exp_manager.checkpoint_callback_params.save_top_k = {top} cannot be resumed here: NeMo reads the '
            f'value of {monitor!r} from the path of a checkpoint, and the folder {path} has that word in its name. Set '
            'save_top_k=0 (the last two checkpoints are kept all the same).'
        )


def _slug(prompt: str) -> str:
    return prompt.lower().replace(' ', '-')


@contextmanager
def plain_override_errors() -> Iterator[None]:
    """What Hydra says of a wrong command line, in one line that names the nearest key; then the exit code is 2."""
    os.environ.setdefault('HYDRA_FULL_ERROR', '1')  # Hydra raises instead of printing
    try:
        yield
    except CompactHydraException as error:
        cause = error.__cause__
        text = unknown_key(cause) if isinstance(cause, OmegaConfBaseException) and cause.key else None
        print(f'error: {text or " ".join(str(error).split())}', file=sys.stderr)
        sys.exit(2)


def unknown_key(error: OmegaConfBaseException) -> str | None:
    """One sentence on a key that does not exist, with the nearest one that does; None for an error of another kind."""
    node, key = error.parent_node, str(error.key)
    if not OmegaConf.is_dict(node) or key in node:
        return None
    prefix = str(error.full_key or key).removesuffix(key)
    close = nearest(key, [str(k) for k in node], count=1)
    advice = f'Did you mean {prefix}{close[0]}?' if close else f'A new key is added with +{prefix}{key}=<value>.'
    return f'there is no key {prefix}{key}. {advice}'


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip('.') if lines else type(error).__name__
