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


"""Every field of Lightning's Trainer and of NeMo's exp_manager can be set, also those that the configuration leaves out.

Hydra asks for a ``+`` before a key that a configuration does not hold; these fields need none.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_dreamfusion.launch.source_fields import read_arguments, read_fields
from nemo_dreamfusion.parts.checks import nearest, not_in_this_release

NODES = ('trainer', 'exp_manager')


def is_known_field(key: str) -> bool:
    """Return whether a dotted key, such as ``exp_manager.max_time_per_run``, is a field of one of the two."""
    node, *names = key.split('.')
    if node not in NODES or not names:
        return False
    *outer, last = names
    fields = known_fields('.'.join([node, *outer]))
    return fields is None or last in fields


def known_fields(node: str) -> list[str] | None:
    """Return the fields of a node, such as ``exp_manager.ema``; None where it takes any, [] where it is none of theirs."""
    fields: Any = _fields() if node.split('.')[0] in NODES else {}
    for name in node.split('.'):
        if not isinstance(fields, dict) or name not in fields:
            return []
        fields = fields[name]
    if isinstance(fields, dict):
        return list(fields)
    return None if fields is None and node.endswith('_kwargs') else []


def check_field(key: str) -> None:
    """Refuse a key within one of the two that is no field, with the nearest that is; take any other key."""
    node, _, name = key.rpartition('.')
    if is_known_field(key) or not (known := known_fields(node)):
        return
    close = nearest(name, known, count=1)
    advice = f'Did you mean {node}.{close[0]}?' if close else f'There are {", ".join(sorted(known))}.'
    raise ValueError(f'there is no key {key}. {not_in_this_release(name) or advice}')


@cache
def exp_manager_schema() -> DictConfig:
    """Return every field of exp_manager with its default."""
    from nemo.utils.exp_manager import ExpManagerConfig  # slow to import

    return OmegaConf.structured(ExpManagerConfig)


@cache
def _fields() -> dict[str, Any]:
    """Both nodes, as nested dictionaries of fields; a mapping that takes any keys is None."""
    try:
        trainer = read_arguments('lightning.pytorch.trainer.trainer', 'Trainer')
        manager = read_fields('nemo.utils.exp_manager', 'ExpManagerConfig')
    except LookupError:  # a release that is written otherwise
        return imported_fields()
    return {'trainer': dict.fromkeys(trainer, False), 'exp_manager': manager}


def imported_fields() -> dict[str, Any]:
    """Return what is read from the source, from the classes themselves: slow to import."""
    import lightning.pytorch as pl

    trainer = dict.fromkeys(inspect.signature(pl.Trainer).parameters, False)
    return {'trainer': trainer, 'exp_manager': OmegaConf.to_container(exp_manager_schema())}
