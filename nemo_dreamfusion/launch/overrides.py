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

"""Read what a user writes as ``key=value`` before Hydra does, whose grammar is made for numbers and lists.

A prompt and a path are data: what stands after the ``=`` is the value, whatever signs it holds. Quotes around the whole of
it, which Hydra asks for elsewhere, may stand. A known field of Lightning's trainer or of NeMo's exp_manager needs no ``+``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from nemo_dreamfusion.launch.known_fields import check_field, is_known_field
from nemo_dreamfusion.launch.paths import is_path
from nemo_dreamfusion.launch.prompts_file import quoted
from nemo_dreamfusion.modules.guidance.old_options import OF_PARTS
from nemo_dreamfusion.parts.texts import NULLABLE_TEXTS, TEXTS, escape_text

TEXT_KEYS = frozenset(f'model.{name}' for name in (*TEXTS, *NULLABLE_TEXTS))
PROMPT = 'model.prompt'
SHORT_NAMES = frozenset(f'model.guidance.{name}' for name in OF_PARTS)
LORAS = ('model.guidance.lora', 'model.guidance.parts.lora')  # the path of one, or a list of mappings
_ENTRIES = re.compile(r'\A\s*\[|(?<!\$)\{')  # a list or a mapping, and no interpolation
_OVERRIDE = re.compile(r'(\+{0,2})([\w.]+)=(.*)', re.DOTALL)
_CHOICE = re.compile(r'\s*choice\((.*)\)\s*', re.DOTALL)
_LIST = re.compile(r'\s*\[([^\[\]]*[^\[\]\s][^\[\]]*)\]\s*', re.DOTALL)  # of one item or more
_ITEM = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*(?=,|\Z)|[^,]*""", re.DOTALL)


def prepare_overrides(overrides: Sequence[str], *, multirun: bool = False) -> list[str]:
    """Return overrides in Hydra's grammar that mean what was written.

        prepare_overrides(['model.prompt=a duck, red'])  # ["model.prompt='a duck, red'"]

    Args:
        overrides: words of a command line, or of a program.
        multirun: whether a comma between values stands for a run with each.

    Raises:
        ValueError: for a field that neither the trainer nor exp_manager has.
    """
    return [_prepare(override, multirun) for override in overrides]


def _prepare(override: str, multirun: bool) -> str:
    match = _OVERRIDE.fullmatch(override)
    if match is None:
        return override
    plus, key, value = match.groups()
    if is_known_field(key) or key in SHORT_NAMES:
        plus = '++'  # the field itself, whether the configuration names it or not
    else:
        check_field(key)
    if key in TEXT_KEYS:
        return f'{plus}{key}={_write_each(value, multirun, lambda word: _write_text(key, word))}'
    if key.startswith('rows.'):
        return f'++{key}={_write_row(value)}'  # a new row, or another recipe for one that is there
    if is_path(key) or (key in LORAS and not _ENTRIES.search(value)):
        value = _write_paths(value, multirun)
    return f'{plus}{key}={value}'


def _write_row(value: str) -> str:
    """Quote the overrides of a benchmark's row, which hold an ``=``.

    >>> _write_row('[model.seed=2, a/b=c]')
    "['model.seed=2','a/b=c']"
    """
    items = _LIST.fullmatch(value)
    if not items:
        return value
    words = (word if unquote(word) is not None else quoted(word) for word in split_items(items[1]))
    return '[' + ','.join(words) + ']'


def _write_each(value: str, multirun: bool, write: Callable[[str], str]) -> str:
    return ','.join(write(word) for word in split_items(value)) if multirun else write(value)


def split_items(value: str) -> list[str]:
    """Split the values of a sweep at the commas that stand outside of quotes.

    >>> split_items("a duck, 'red, blue',a tree")
    ['a duck', "'red, blue'", 'a tree']
    """
    if choice := _CHOICE.fullmatch(value):
        value = choice[1]
    items, start = [], 0
    while start <= len(value):
        match = _ITEM.match(value, start)
        assert match is not None  # it matches nothing too
        items.append(match[0].strip())
        start = match.end() + 1
    return items


def _write_text(key: str, word: str) -> str:
    if word == 'null' and key != PROMPT:
        return word
    text = unquote(word)
    return quoted(escape_text(word if text is None else text))


def _write_paths(value: str, multirun: bool) -> str:
    if items := _LIST.fullmatch(value):
        return '[' + ','.join(_write_path(word) for word in split_items(items[1])) + ']'
    if value.lstrip().startswith(('[', '{')):  # empty, nested, or several lists
        return value
    return _write_each(value, multirun, _write_path)


def _write_path(word: str) -> str:
    text = unquote(word)
    if text is None:
        if not word.startswith('~') and _is_one_value(word):
            return word
        text = word
    return quoted(os.path.expanduser(text))


def unquote(word: str) -> str | None:
    """Return the text that a word holds between quotes of Hydra's grammar; None for one that is not quoted as a whole.

    >>> unquote("'a duck, red'"), unquote('a duck')
    ('a duck, red', None)
    """
    if len(word) < 2 or word[0] not in '"\'' or word[-1] != word[0]:
        return None
    try:
        value = OverridesParser.create().parse_override(f'key={word}').value()
    except HydraException:  # the quotes are not around the whole: they belong to the text
        return None
    return value if isinstance(value, str) else None


def _is_one_value(word: str) -> bool:
    try:
        return not OverridesParser.create().parse_override(f'key={word}').is_sweep_override()
    except HydraException:
        return False
