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

"""The captions among which a picture must find its own: those of Dream Fields, or a user's."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nemo_dreamfusion.parts.checks import nearest, refuse
from nemo_dreamfusion.parts.prompt_list import read_lines

PUBLISHED_COUNT = 153  # Dream Fields, App. A: a filtered subset of the captions in MSCOCO


def normalise(text: str) -> str:
    """Return a caption as Dream Fields compares it: small letters, one full stop; and single spaces.

    >>> normalise(' A bowl  of soup, ')
    'a bowl of soup.'
    """
    return ' '.join(text.lower().split()).strip(' .,') + '.'


class Captions:
    """The candidates of a file, one a line.

    Args:
        path: a text file, UTF-8; empty lines and those that start with # are left out.

    Raises:
        ValueError: when it cannot be read, has fewer than two captions, or has one twice.
    """

    SETTING = 'metric.candidates'

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        lines = read_lines(self.path, self.SETTING)
        self.texts = [normalise(line) for line in lines]
        twice = [text for text, count in Counter(self.texts).items() if count > 1]
        if twice:
            advice = 'Neither could be told from the other: remove one. Letters, spaces and full stops do not count.'
            refuse(self.SETTING, str(path), f'a file of different captions; {twice[0]!r} is there twice', advice)
        if len(self.texts) < 2:
            refuse(self.SETTING, str(path), 'a file of two captions or more, one a line')
        self._index = {text: i for i, text in enumerate(self.texts)}

    def __len__(self) -> int:
        return len(self.texts)

    def index(self, prompt: str) -> int:
        """Return the place of a prompt; the file must hold it."""
        return self._index[normalise(prompt)]

    def check_holds(self, prompts: Sequence[str]) -> None:
        """Refuse a prompt that is none of the captions.

        Raises:
            ValueError: naming the prompt, how many more there are, and the nearest caption.
        """
        missing = [prompt for prompt in dict.fromkeys(prompts) if normalise(prompt) not in self._index]
        if missing:
            more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
            close = nearest(normalise(missing[0]), self.texts, count=1)
            like = f' The nearest it has is {close[0]!r}.' if close else ''
            raise ValueError(
                f'{self.SETTING} = {str(self.path)!r} does not hold {missing[0]!r}{more}, which a run was made for: add the '
                f'line, or leave the run out.{like}'
            )

    def digest(self) -> str:
        """Return the SHA-256 of the normalised captions in their order."""
        return hashlib.sha256('\n'.join(self.texts).encode()).hexdigest()

    def note(self) -> str | None:
        """Say what a number of candidates other than the published one means; None for the published one."""
        if len(self) == PUBLISHED_COUNT:
            return None
        return (
            f'{len(self)} candidates, not {PUBLISHED_COUNT}: chance is {100 / len(self):.2g} %, and the scores cannot be '
            'compared with published ones.'
        )
