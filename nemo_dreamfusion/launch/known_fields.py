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

"""The fields that Lightning's trainer and NeMo's exp_manager have, whether a configuration names them or not."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache

import lightning.pytorch as pl
from nemo.utils.exp_manager import ExpManagerConfig
from omegaconf import DictConfig, OmegaConf

from nemo_dreamfusion.parts.checks import nearest, not_in_this_release


@cache
def exp_manager_schema() -> DictConfig:
    """Return every field of NeMo's exp_manager, with its default."""
    return OmegaConf.structured(ExpManagerConfig)


def known_fields(node: str) -> Iterable[str]:
    """Return the fields of ``trainer``, ``exp_manager`` or a mapping within that; of any other node none.

    >>> 'dirpath' in known_fields('exp_manager.checkpoint_callback_params'), list(known_fields('model'))
    (True, [])
    """
    if node == 'trainer':
        return inspect.signature(pl.Trainer).parameters
    root, _, inner = node.partition('.')
    if root != 'exp_manager':
        return ()
    found = OmegaConf.select(exp_manager_schema(), inner) if inner else exp_manager_schema()
    return [str(key) for key in found] if OmegaConf.is_dict(found) else ()


def is_known_field(key: str) -> bool:
    """Return whether a dotted key is such a field; of a mapping that goes to a logger as it is, every key is.

    >>> is_known_field('trainer.max_epochs'), is_known_field('exp_manager.wandb_logger_kwargs.tags')
    (True, True)
    """
    node, _, name = key.rpartition('.')
    if name in known_fields(node):
        return True
    root, _, inner = node.partition('.')
    free = inner in exp_manager_schema() and exp_manager_schema()[inner] is None and inner.endswith('_kwargs')
    return root == 'exp_manager' and free


def check_field(key: str) -> None:
    """Refuse a key of ``trainer`` or ``exp_manager`` that is no field, with the nearest that is; take any other key."""
    node, _, name = key.rpartition('.')
    known = known_fields(node)
    if known and not is_known_field(key):
        close = nearest(name, known, count=1)
        advice = f'Did you mean {node}.{close[0]}?' if close else f'There are {", ".join(sorted(known))}.'
        raise ValueError(f'there is no key {key}. {not_in_this_release(name) or advice}')
