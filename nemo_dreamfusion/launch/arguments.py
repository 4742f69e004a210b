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

"""Put the words of a command line into the order and the form that Hydra takes."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nemo_dreamfusion.launch.overrides import PROMPT, prepare_overrides, unquote

WITH_A_VALUE = {  # Hydra's options
    *('--config-path', '-cp', '--config-name', '-cn', '--config-dir', '-cd', '--cfg', '-c', '--package', '-p'),
    '--experimental-rerun',
}
INFO = ('--info', '-i')  # its value may be left out
INFO_CHOICES = ('all', 'config', 'defaults', 'defaults-tree', 'plugins', 'searchpath')
FOLDERS = ('--config-path', '-cp', '--config-dir', '-cd')
MULTIRUN = ('--multirun', '-m')


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line with its options first, their folders written out, and overrides in Hydra's grammar.

    Hydra's reader of arguments takes overrides on one side of the options only.
    """
    options, overrides = split_arguments(arguments)
    return [*_whole_folders(options), *prepare_overrides(overrides, multirun=_is_multirun(options))]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into its options, with their values, and its overrides.

    >>> split_arguments(['model.seed=1', '--config-name', 'dreamfusion', 'mode=fit'])
    (['--config-name', 'dreamfusion'], ['model.seed=1', 'mode=fit'])
    """
    options: list[str] = []
    overrides: list[str] = []
    before = ''
    for argument in arguments:
        if before in INFO and argument in INFO_CHOICES:
            options[-1] = f'--info={argument}'
        elif argument.startswith('-') or before in WITH_A_VALUE:
            options.append('--info=all' if argument in INFO else argument)
        else:
            overrides.append(argument)
        before = '' if before in WITH_A_VALUE else argument
    return options, overrides


def comma_note(arguments: Sequence[str]) -> str | None:
    """Return what to say when a single prompt holds a comma, which stands between prompts in a list; None without one."""
    options, overrides = split_arguments(arguments)
    for override in overrides:
        key, _, value = override.partition('=')
        if key == PROMPT and ',' in value and not _is_multirun(options) and unquote(value) is None:
            word = shlex.quote(override)
            return f'The comma is part of the prompt. For a prompt on each side of it write --multirun {word}'
    return None


def _is_multirun(options: Sequence[str]) -> bool:
    return any(option in MULTIRUN for option in options)


def _whole_folders(options: Sequence[str]) -> list[str]:
    """Write the folder of ``--config-path`` out: Hydra would look for it beside its own file.

    It may be relative to the script that was started, as Hydra has it, or to the working folder.
    """
    whole, before = [], ''
    for argument in options:
        option, equals, value = argument.partition('=')
        if before in FOLDERS:
            whole.append(_find_folder(argument))
        elif equals and option in FOLDERS:
            whole.append(f'{option}={_find_folder(value)}')
        else:
            whole.append(argument)
        before = argument
    return whole


def _find_folder(name: str) -> str:
    if name.startswith('pkg://'):
        return name
    name = os.path.expanduser(name)
    beside = Path(sys.argv[0]).resolve().parent / name
    return str(beside if beside.is_dir() else Path(name).resolve())
