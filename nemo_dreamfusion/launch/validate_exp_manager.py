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

"""The check of ``exp_manager``: what NeMo's experiment manager would refuse or do wrong after it began to write."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from nemo.utils.exp_manager import ExpManagerConfig, StatelessTimer
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.models.dreamfusion import LOGGED
from nemo_dreamfusion.parts.checks import check_choice, check_keys, check_positive, check_range, first_line, refuse
from nemo_dreamfusion.parts.optional import available, require

PACKAGES = {  # switch -> (module, what pip calls it): NeMo imports them only once the folder of the run is there
    'create_wandb_logger': ('wandb', 'wandb'),
    'create_mlflow_logger': ('mlflow', 'mlflow'),
    'create_clearml_logger': ('clearml', 'clearml'),
    'create_neptune_logger': ('neptune', 'neptune'),
    'create_dllogger_logger': ('dllogger', 'git+https://github.com/NVIDIA/dllogger'),
}
RESILIENCE = ('create_straggler_detection_callback', 'create_fault_tolerance_callback')
SWITCHES = (
    *(*PACKAGES, *RESILIENCE, 'create_tensorboard_logger', 'create_checkpoint_callback'),
    *('create_early_stopping_callback', 'resume_if_exists'),
)
MAY_BE_NULL = ('ema', 'step_timing_kwargs')  # NeMo reads the keys of the other mappings


@cache
def _schema() -> DictConfig:
    return OmegaConf.structured(ExpManagerConfig)


def check_exp_manager(settings: Mapping[str, Any]) -> None:
    """Refuses settings of NeMo's exp_manager that it does not know, or with which a run would fail after it began.

    Raises:
        ValueError: one sentence, with the key and what to set; also where a package is missing that a switch asks for.
    """
    schema = _schema()
    check_keys('exp_manager', settings, schema)
    for key, value in settings.items():
        if OmegaConf.is_config(schema[key]) and not (value is None and key in MAY_BE_NULL):
            if not isinstance(value, Mapping):
                refuse(f'exp_manager.{key}', value, 'a mapping of keys to values')
            check_keys(f'exp_manager.{key}', value, schema[key])
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(schema, dict(settings)))
    except OmegaConfBaseException as error:
        raise ValueError(f'exp_manager.{error.full_key}: {first_line(error)}.') from error
    for key in SWITCHES:
        check_choice(f'exp_manager.{key}', merged[key], (True, False))
    for key, (module, package) in PACKAGES.items():
        if merged[key]:
            require(module, None, f'exp_manager.{key}=true needs it', f'exp_manager.{key}=false', install=package)
    for key in RESILIENCE:
        if merged[key] and not available('ptl_resiliency'):
            refuse(
                f'exp_manager.{key}', True, 'false', 'NeMo does it by the package ptl_resiliency, which is not here.'
            )
    _check_average(settings.get('ema') or {})
    _check_time(merged['max_time_per_run'])
    if merged['create_checkpoint_callback']:
        _check_checkpointing(merged['checkpoint_callback_params'])
    if merged['create_early_stopping_callback']:
        name = 'exp_manager.early_stopping_callback_params.monitor'
        check_choice(name, merged['early_stopping_callback_params']['monitor'], LOGGED, f'Set {name}=loss.')


def _check_time(limit: str | None) -> None:
    if limit is None:
        return
    try:
        StatelessTimer(limit)
    except Exception as error:
        refuse('exp_manager.max_time_per_run', limit, 'days:hours:minutes:seconds', first_line(error) + '.')


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
        raise ValueError(f'{name}: {first_line(error)}.') from error
    if merged['save_top_k'] != 0:  # Lightning knows the step too, and keeps all of them (-1) by no value
        monitors = (*LOGGED, 'step', *[None] * (merged['save_top_k'] == -1))
        check_choice(f'{name}.monitor', merged['monitor'], monitors, f'Set {name}.monitor=loss.')
    advice = f'Checkpoints are written whole or not at all, which takes a moment: set {name}.async_save=false.'
    check_choice(f'{name}.async_save', merged['async_save'], (False,), advice)
