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

"""Arguments of the form ``key=value`` for the commands that need no Hydra."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.launch.paths import expand_mapping
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.parts.checks import check_keys, first_line

T = TypeVar('T')


def read_arguments(arguments: Sequence[str], function: Callable, **required: str) -> dict[str, Any]:
    """Return ``key=value`` arguments as keyword arguments of ``function``.

        read_arguments(['source=a.nemo', 'force=true'], convert, source='<.nemo or folder>')

    Args:
        required: what must be given as a text, and how the message describes it.

    Raises:
        ValueError: for an argument of another form, a key that ``function`` has not, and a required one that is missing.
    """
    _check_form(arguments)
    given = to_plain(OmegaConf.from_dotlist(list(arguments)))
    check_keys('', given, inspect.signature(function).parameters)
    for name in required:
        if not isinstance(given.get(name), str):
            advice = ' '.join(f'{key}={value}' for key, value in required.items())
            raise ValueError(f'{name} is missing: set {advice}.')
    return expand_mapping(given)


def read_dataclass(arguments: Sequence[str], kind: type[T]) -> T:
    """Return a dataclass with ``name=value`` arguments (``part.name=value`` for nested ones) laid over its defaults.

    Raises:
        ValueError: for an unknown name, or a value of the wrong kind.
    """
    _check_form(arguments)
    defaults = OmegaConf.structured(kind)
    for node in defaults.values():
        if OmegaConf.is_config(node):
            OmegaConf.set_readonly(node, False)  # the node of a frozen dataclass cannot be set otherwise
    given = [re.sub(r'=(\d+:\d+)$', r'="\1"', argument) for argument in arguments]  # YAML reads 18:30 as 1110
    try:
        merged = OmegaConf.merge(defaults, expand_mapping(to_plain(OmegaConf.from_dotlist(given))))
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        name, _, key = str(error.full_key or '').rpartition('.')
        known = OmegaConf.select(defaults, name) if name else defaults
        if OmegaConf.is_dict(known):
            check_keys(name, [key], [str(k) for k in known])
        raise ValueError(f'{error.full_key}: {first_line(error)}.') from error
    assert isinstance(made, kind)
    return made


def _check_form(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if '=' not in argument:
            raise ValueError(f'{argument!r} is not of the form name=value: --help lists examples.')
