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

"""Read a list of prompts from a text file, however it was saved: one prompt a line."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from pathlib import Path

BLANK = ' \t\r\f\v\u00a0\u200b\ufeff'  # \ufeff: a byte-order mark, also where files were joined


def read_prompts(path: str | Path) -> list[str]:
    """Return the prompts of a file, one a line, each once; empty lines and those that start with # are left out.

    The file is UTF-8, or UTF-16 as Windows writes it, with a byte-order mark.

    Raises:
        ValueError: when the file cannot be read or holds no prompt.
    """
    return list(dict.fromkeys(read_lines(path, 'prompts_file')))


def read_lines(path: str | Path, setting: str) -> list[str]:
    """Return the lines of a file as :func:`read_prompts` does, also those that are there twice.

    Args:
        path: of the file.
        setting: that named it, for the message.

    Raises:
        ValueError: when the file cannot be read or holds no line.
    """
    try:
        text = _decode(Path(path).expanduser().read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{setting} = {str(path)!r} cannot be read ({error}): give a text file of prompts, saved as UTF-8.'
        ) from error
    if '\0' in text:
        raise ValueError(f'{setting} = {str(path)!r} holds null characters: save it as UTF-8.')
    lines = [line.strip(BLANK) for line in text.splitlines()]
    prompts = [line for line in lines if line and not line.startswith('#')]
    if not prompts:
        raise ValueError(f'{setting} = {str(path)!r} holds no prompt: write one a line.')
    return prompts


def _decode(content: bytes) -> str:
    if content.startswith((BOM_UTF32_LE, BOM_UTF32_BE)):  # before UTF-16, whose mark is how that of UTF-32 begins
        return content.decode('utf-32')
    return content.decode('utf-16' if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else 'utf-8')
