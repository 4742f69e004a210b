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

"""Checks of a configuration's values against the annotations of what takes them: the signature is the schema.

>>> check_types('model.renderer', {'max_steps': 'many'}, hints_of(TorchNGPRaymarchingRenderer))
ValueError: model.renderer.max_steps = 'many' is not allowed: it must be a whole number.
"""

from __future__ import annotations

import collections.abc
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from nemo_dreamfusion.parts.checks import refuse

MISSING = '???'  # OmegaConf's mark of a value that must be given
_SIMPLE = {
    type(None): 'null',
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    complex: 'a number',
    str: 'text (in quotes, where it looks like a number)',
}


def hints_of(kind: type) -> dict[str, Any]:
    """The annotations of a class's constructor, with those of the constructors that it hands its options on to."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if '__init__' in vars(base) and base is not object:
            try:
                found |= typing.get_type_hints(base.__init__)
            except (NameError, TypeError):  # written for type checkers only: unknown here
                continue
    return found


def check_types(name: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Every value fits its annotation; what has none, or one of no plain type, is not judged.

    Raises:
        ValueError: naming the first key whose value does not fit, and what would.
    """
    for key, value in values.items():
        if isinstance(value, str) and value == MISSING:
            raise ValueError(f'{name}.{key} is not set: set {name}.{key}=<value>.')
        if key in hints and not fits(value, hints[key]):
            refuse(f'{name}.{key}', value, in_words(hints[key]))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration (plain data) may stand where ``hint`` is asked for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    kind = origin or hint
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, type(None)):
        return isinstance(value, kind)
    if kind in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        inner = arguments[0] if arguments else Any
        return isinstance(value, list | tuple) and all(fits(item, inner) for item in value)
    if kind in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    if hint is Any or not isinstance(kind, type):
        return True
    return isinstance(value, kind)


def in_words(hint: Any) -> str:
    """What a message says of an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return ' or '.join(dict.fromkeys(in_words(a) for a in arguments))
    if origin is typing.Literal:
        return 'one of ' + ', '.join(repr(a) for a in arguments)
    kind = origin or hint
    if kind in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return 'a list'
    if kind in (dict, collections.abc.Mapping):
        return 'a mapping of keys to values'
    return _SIMPLE.get(kind, f'a {getattr(kind, "__name__", kind)}')
