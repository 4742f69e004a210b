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
from collections.abc import Sequence
from functools import cache
from typing import Any

from omegaconf import OmegaConf

NODES = ('trainer', 'exp_manager')


def add_known_fields(arguments: Sequence[str]) -> list[str]:
    """Write ``trainer.max_epochs=3`` as ``++trainer.max_epochs=3``, where the key is a field of one of the two."""
    plain = [argument.lstrip('+') for argument in arguments]
    known = [is_known_field(argument.partition('=')[0]) for argument in plain]
    return [f'++{without}' if found else given for given, without, found in zip(arguments, plain, known)]


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
    return list(fields) if isinstance(fields, dict) else None if fields is None else []


@cache
def _fields() -> dict[str, Any]:
    """Both nodes, as nested dictionaries of fields; a mapping that takes any keys is None."""
    import lightning.pytorch as pl  # slow to import, and most command lines need neither
    from nemo.utils.exp_manager import ExpManagerConfig

    trainer = dict.fromkeys(inspect.signature(pl.Trainer).parameters, False)
    return {'trainer': trainer, 'exp_manager': OmegaConf.to_container(OmegaConf.structured(ExpManagerConfig))}
