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

"""Check what a user gave. Every refusal is a ValueError of one form: what was given, what is allowed, what to set.

    >>> check_choice('mode', 'trian', ('fit', 'test'))
    ValueError: mode = 'trian' is not allowed: it must be one of 'fit', 'test'. Set mode=fit.

Each check of a value returns it, so that a constructor can check and assign in one line. The annotations of a constructor
are the schema of its part of the configuration:

    >>> check_types('model.renderer', {'max_steps': 'many'}, hints_of(TorchNGPRaymarchingRenderer))
    ValueError: model.renderer.max_steps = 'many' is not allowed: it must be a whole number.
"""

from __future__ import annotations

import collections.abc
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

MISSING = '???'  # OmegaConf's mark of a value that must be given
NOT_HERE = {  # what people ask for by many names -> where it is
    'lora': 'A LoRA is added by model.guidance.lora=[{path: <file>.safetensors, scale: 0.8}] with '
    'model/guidance=sd_huggingface or sd_nemo; an engine is built of a model that it was merged into.',
    r'^embeddings?$|textual_inversion': "A learnt word is added by model.guidance.embeddings=[{path: <file>.safetensors, "
    "token: '<cat>'}], with model/guidance=sd_huggingface or sd_nemo.",
    r'textur(?!eless)|(^|_)uv(_|$)': 'A mesh (mesh_fname=mesh.glb or .obj) has a texture as it is; its settings are '
    'texture_size and mesh_faces.',
}
_SIMPLE = {
    type(None): 'null',
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    complex: 'a number',
    str: 'text (in quotes, where it looks like a number)',
}


def nearest(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return up to ``count`` candidates that look like ``name``, the most similar first; none may."""
    by_folded: dict[str, str] = {}
    for candidate in candidates:
        by_folded.setdefault(str(candidate).lower(), candidate)
    return [by_folded[match] for match in difflib.get_close_matches(str(name).lower(), by_folded, n=count, cutoff=0.6)]


def message(name: str, value: Any, allowed: str, advice: str = '') -> str:
    """Word a refusal: ``allowed`` completes "it must be …"; ``advice`` is a sentence that says what to set."""
    text = f'{name} = {value!r} is not allowed: it must be {allowed}.'
    return f'{text} {advice}' if advice else text


def refuse(name: str, value: Any, allowed: str, advice: str = '') -> NoReturn:
    """Raise the ValueError that :func:`message` words; for checks that only their caller can make."""
    raise ValueError(message(name, value, allowed, advice))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop; its class, where it has no message."""
    lines = re.sub(r'\x1b\[[0-9;]*m', '', str(error)).strip().splitlines()  # torch writes in bold
    return lines[0].rstrip(' .:') if lines else type(error).__name__


def check_choice(name: str, value: Any, choices: Sequence[Any], advice: str = '') -> Any:
    """Return ``value`` if it is one of ``choices`` (and of the same type: ``True`` is not 1)."""
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    close = nearest(value, (c for c in choices if isinstance(c, str)), count=1) if isinstance(value, str) else []
    if close and not advice:
        advice = f'Set {name}={close[0]}.'
    refuse(name, value, 'one of ' + ', '.join(repr(choice) for choice in choices), advice)


def check_range(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
    integer: bool = False,
    advice: str = '',
) -> Any:
    """Return ``value`` if it is a finite number between ``low`` and ``high``; an open end is excluded."""
    allowed = _range_in_words(low, high, low_open, high_open, integer)
    if not _is_number(value, integer):
        refuse(name, value, allowed, advice)
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (above and below):
        refuse(name, value, allowed, advice)
    return value


def check_positive(name: str, value: Any, *, integer: bool = False, advice: str = '') -> Any:
    """Return ``value`` if it is a finite number greater than 0 (at least 1 for an integer)."""
    if integer:
        return check_range(name, value, low=1, integer=True, advice=advice)
    return check_range(name, value, low=0, low_open=True, advice=advice)


def check_interval(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, advice: str = ''
) -> tuple[float, float]:
    """Return ``value`` if it is a pair [first, last] of finite numbers in order, both between ``low`` and ``high``."""
    allowed = 'a pair [first, last] with first <= last, each ' + _range_in_words(low, high, False, False, False)
    try:
        first, last = value
    except (TypeError, ValueError):
        refuse(name, value, allowed, advice)
    if not (_is_number(first) and _is_number(last)) or not low <= first <= last <= high:
        refuse(name, value, allowed, advice)
    return first, last


def check_keys(name: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse a key of ``given`` that is not allowed, with the nearest that is. ``name`` '' is the root."""
    known = sorted(allowed)
    prefix = f'{name}.' if name else ''
    for key in given:
        if key not in known:
            close = nearest(key, known, count=1)
            advice = f' Did you mean {prefix}{close[0]}?' if close else ''
            advice = f' {absent}' if (absent := not_in_this_release(key)) else advice
            there = f'{name} has' if name else 'there are'
            raise ValueError(f'there is no key {prefix}{key}; {there} {", ".join(known) or "none"}.{advice}')


def not_in_this_release(key: str) -> str | None:
    """Return where what a key asks for is found, when that is not in this release; None for any other key."""
    return next((where for pattern, where in NOT_HERE.items() if re.search(pattern, str(key), re.IGNORECASE)), None)


def hints_of(kind: type) -> dict[str, Any]:
    """Return the annotations of a class's constructor and of the constructors that it hands its options on to."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if '__init__' in vars(base) and base is not object:
            try:
                found |= typing.get_type_hints(vars(base)['__init__'])
            except (NameError, TypeError):  # written for type checkers only: unknown here
                continue
    return found


def check_types(name: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Refuse a value that does not fit its annotation; what has none, or one of no plain type, is not judged.

    Raises:
        ValueError: naming the first key whose value does not fit, and what would.
    """
    for key, value in values.items():
        if isinstance(value, str) and value == MISSING:
            raise ValueError(f'{name}.{key} is not set: set {name}.{key}=<value>.')
        if key in hints and not fits(value, hints[key]):
            refuse(f'{name}.{key}', value, in_words(hints[key]))


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value of a configuration (plain data) may stand where ``hint`` is asked for."""
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
    """Word an annotation for a message."""
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


def _is_number(value: Any, integer: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        return False
    return math.isfinite(value)


def _range_in_words(low: float, high: float, low_open: bool, high_open: bool, integer: bool) -> str:
    noun = 'a whole number' if integer else 'a number'
    ends = []
    if low > -math.inf:
        ends.append(f'greater than {low:g}' if low_open else f'at least {low:g}')
    if high < math.inf:
        ends.append(f'less than {high:g}' if high_open else f'at most {high:g}')
    return ' '.join([noun, ' and '.join(ends)]).strip()
