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

"""Build an object from a configuration node ``{_target_: package.module.Class, **arguments}``, safely."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Union, get_args, get_origin

from nemo_dreamfusion.parts.checks import MISSING, check_keys, check_types, first_line, hints_of, refuse

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar('Kind')
Options = TypeVar('Options', bound='DataclassInstance')

# A configuration travels inside .nemo archives, so it must not be able to call what it likes.
# A plugin of this plugin adds its own package's prefix here; a user names modules in the environment, which no archive sets.
ALLOWED_PREFIXES: list[str] = ['nemo_dreamfusion.']
PLUGINS = 'NEMO_DREAMFUSION_PLUGINS'


class Configurable:
    """A base whose subclasses may hand ``**options`` on to it, and still show every option in their signature.

    The keys of a YAML file are the names of keyword-only arguments, so that an unknown one can be refused.

    Attributes:
        NOT_OPTIONS: arguments of the base that its subclasses fill in themselves.
    """

    NOT_OPTIONS: tuple[str, ...] = ()
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        shown: dict[str, inspect.Parameter] = {}
        for base in (base for base in cls.__mro__ if '__init__' in vars(base)):
            _, *own = inspect.signature(vars(base)['__init__']).parameters.values()
            named = (p for p in own if p.kind is not p.VAR_KEYWORD and p.name not in cls.NOT_OPTIONS)
            shown = {p.name: p for p in named} | shown
            if len(own) == 0 or own[-1].kind is not inspect.Parameter.VAR_KEYWORD:
                break
        cls.__signature__ = inspect.Signature(sorted(shown.values(), key=lambda p: p.kind))


def read_plugins() -> tuple[str, ...]:
    """Return the modules that the environment variable ``NEMO_DREAMFUSION_PLUGINS`` names, with commas between them.

    Raises:
        ValueError: for what is no name of a module.
    """
    names = tuple(name.strip() for name in os.environ.get(PLUGINS, '').split(',') if name.strip())
    for name in names:
        if not all(part.isidentifier() for part in name.split('.')):
            refuse(PLUGINS, name, 'names of Python modules with commas between them', f'Set {PLUGINS}=my_module.')
    return names


def allowed_prefixes() -> tuple[str, ...]:
    """Return what a ``_target_`` may begin with: ``ALLOWED_PREFIXES``, and the modules of :func:`read_plugins`."""
    return (*ALLOWED_PREFIXES, *(f'{name}.' for name in read_plugins()))


def target_class(name: str, config: Mapping, kind: type[Kind]) -> type[Kind]:
    """Import the class that ``config['_target_']`` names.

    Raises:
        ValueError: when there is no ``_target_``, when it lies outside of :func:`allowed_prefixes`, does not exist, or is
            not a ``kind``.
    """
    target = config.get('_target_')
    if not isinstance(target, str):
        raise ValueError(
            f'{name} has no _target_: choose one of the files in nemo_dreamfusion/conf/{name.replace(".", "/")}.'
        )
    if not target.startswith(allowed_prefixes()):
        allowed = ', '.join(prefix + '*' for prefix in allowed_prefixes())
        raise ValueError(
            f'{name}._target_ is {target!r}; only classes of {allowed} may be built from a configuration. To allow those of '
            f'a module that you trust, set the environment variable {PLUGINS}={target.partition(".")[0]}.'
        )
    module_name, _, class_name = target.rpartition('.')
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f'{name}._target_ = {target!r} cannot be imported ({first_line(error)}): choose one of the files in '
            f'nemo_dreamfusion/conf/{name.replace(".", "/")}.'
        ) from error
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise ValueError(f'{name}._target_ is {target!r}, which is not a {kind.__name__}.')
    return found


def read_options(name: str, kind: type[Options], given: Mapping[str, Any] | None) -> Options:
    """Make a dataclass from a mapping of its own field names (None: all defaults).

    Raises:
        ValueError: for an unknown name, or a value of another type than its field's.
    """
    given = dict(given or {})
    check_keys(name, given, [field.name for field in fields(kind)])
    check_types(name, given, hints_of(kind))
    return kind(**given)


def build(name: str, config: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """Build an instance of the class in ``config['_target_']``, with the other keys as its keyword arguments.

    An argument that is itself such a node is built first; one that is annotated with a dataclass is read into it.

    Args:
        name: where the node stands in the configuration, for messages, e.g. ``model.nerf``.
        config: the node, plain containers.
        kind: the base class that it must have.

    Raises:
        ValueError: as in :func:`target_class`, or for a key that the constructor does not take, a value of another type
            than it is annotated with, or a key that is missing.
    """
    if not isinstance(config, Mapping):
        refuse(name, config, 'a mapping with a _target_')
    cls = target_class(name, config, kind)
    arguments = {key: value for key, value in config.items() if key != '_target_'}
    parameters, hints = inspect.signature(cls).parameters, hints_of(cls)
    check_keys(name, arguments, parameters)
    for key, value in arguments.items():
        arguments[key] = _build_argument(f'{name}.{key}', value, _class_in(hints.get(key)))
    check_types(name, arguments, hints)
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise ValueError(f'{name}.{key} is missing, and {cls.__name__} has no default for it: set {name}.{key}.')
    return _construct(name, cls, arguments)


def _build_argument(name: str, value: Any, kind: type) -> Any:
    """Build a nested node: an object of its ``_target_``, or the dataclass that it is annotated with."""
    if isinstance(value, Mapping) and '_target_' in value:
        return build(name, value, kind)
    if isinstance(value, Mapping) and is_dataclass(kind):
        return read_options(name, kind, value)
    if isinstance(value, str) and value != MISSING and kind.__module__.startswith(allowed_prefixes()):
        refuse(name, value, 'a mapping of keys to values', f'To choose one, set {name.replace(".", "/")}={value}.')
    return value


def _class_in(hint: Any) -> type:
    """Return the class that an annotation asks for, be it optional; ``object`` where it asks for none or for several."""
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [choice for choice in choices if choice is not NoneType]
    return kinds[0] if len(kinds) == 1 and isinstance(kinds[0], type) else object


def _construct(name: str, cls: type[Kind], arguments: Mapping[str, Any]) -> Kind:
    """Call the class; put the whole key into its refusals, since the class may not know where it stands."""
    try:
        return cls(**arguments)
    except ValueError as error:
        if name in str(error) or isinstance(error, ImportError):
            raise
        raise ValueError(f'{name}: {error}') from error
    except (TypeError, OverflowError, RuntimeError) as error:  # what its options do to each other, or to the memory
        raise ValueError(f'{name} cannot be built from its options: {error}') from error


def flatten(config: Mapping, prefix: str = '') -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) of every leaf of nested mappings."""
    for key, value in config.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            yield from flatten(value, name + '.')
        else:
            yield name, value
