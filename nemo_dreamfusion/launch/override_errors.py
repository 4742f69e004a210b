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

"""Say what Hydra does not take of an override in one sentence that names what to write."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterable

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.launch.known_fields import is_known_field
from nemo_dreamfusion.launch.prompts_file import quoted
from nemo_dreamfusion.modules.guidance.old_options import new_name
from nemo_dreamfusion.parts.build import target_class
from nemo_dreamfusion.parts.checks import nearest, not_in_this_release

_SEVERAL = re.compile(r"Ambiguous value for argument '(.*?)'\n", re.DOTALL)  # Hydra's three-way text


def override_error(error: HydraException) -> str:
    """Return one sentence on an argument that Hydra does not take, with what to write instead where that is known."""
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.key and (text := unknown_key(cause)):
        return text
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if several := _SEVERAL.match(str(error)):
        one = _plain(several[1])
        return f'{one} is several values: add --multirun for a run with each. For one text {_advice(one)}'
    if isinstance(error, MissingConfigException) and (absent := not_in_this_release(str(error.missing_cfg_file))):
        return f"there is no '{error.missing_cfg_file}'. {absent}"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition('/')
        close = nearest(choice, error.options, count=1)
        advice = f' Did you mean {group}={close[0]}?' if close else ''
        return f"there is no '{group}/{choice}': {group} must be one of {', '.join(error.options)}.{advice}"
    return ' '.join(str(error).partition('Config search path')[0].split())


def _unreadable(override: str) -> str:
    """Return one sentence on how to quote a value that Hydra's grammar does not read, in the shell too."""
    if '=' not in override:
        return (
            f"{override} is no key=value. A text with spaces needs quotes around it all, as in 'model.prompt=a duck'"
        )
    key, _, value = _plain(override).partition('=')
    if items := re.fullmatch(r'\[([^\[\]{}"\']*)\]', value):
        written = ','.join(quoted(item.strip()) for item in items[1].split(','))
        return f'{key}={value} cannot be read as a list: quote each of its items. Write {shlex.quote(f"{key}=[{written}]")}'
    return f'{_plain(override)} cannot be read as one value. If it is a text, {_advice(override)}'


def _plain(override: str) -> str:
    """Return an override without the signs that are added to known fields."""
    key, equals, value = override.partition('=')
    return f'{key.lstrip("+") if is_known_field(key.lstrip("+")) else key}{equals}{value}'


def _advice(override: str) -> str:
    """Say what to write, in a shell, for an override whose value is meant as one text."""
    key, _, value = _plain(override).partition('=')
    if len(value) > 1 and value[0] == value[-1] and value[0] in '"\'':
        value = value[1:-1]
    word = f'{key}={quoted(value)}'
    readable = not re.search(r'["$`!\n]|\\\\', word)  # as it is between double quotes
    return f'write "{word}"' if readable else f'write {shlex.quote(word)}'


def unknown_key(error: OmegaConfBaseException) -> str | None:
    """Return one sentence on a key that does not exist, with the nearest one that does; None for another error."""
    node, key = error.parent_node, str(error.key)
    if not OmegaConf.is_dict(node) or key in node:
        return None
    prefix = str(error.full_key or key).removesuffix(key)
    if prefix == 'model.guidance.' and (now := new_name(key)):
        return f'there is no key {prefix}{key} any more. Write {now}.'
    if absent := not_in_this_release(key):
        return f'there is no key {prefix}{key}. {absent}'
    known = {*map(str, node), *_arguments_of(node)}
    close = nearest(key, known, count=1) if key not in known else []
    advice = f'Did you mean {prefix}{close[0]}?' if close else f'A new key is added with +{prefix}{key}=<value>.'
    return f'there is no key {prefix}{key}. {advice}'


def _arguments_of(node: DictConfig) -> Iterable[str]:
    """Return what the class of a node takes, named in the configuration or not."""
    if '_target_' not in node:
        return ()
    try:
        return inspect.signature(target_class('', {'_target_': node['_target_']}, object)).parameters
    except ValueError:
        return ()
