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

"""OpenAI CLIP's vocabulary, without a network: from the file that the package ``open_clip_torch`` holds.

All of OpenAI's CLIP models have one tokenizer, a byte-pair encoding (https://arxiv.org/abs/1508.07909) of lower-case texts
whose rules are ``bpe_simple_vocab_16e6.txt.gz``.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

from nemo_dreamfusion.parts.checks import first_line

FILE = 'bpe_simple_vocab_16e6.txt.gz'
PACKAGES = ('open_clip', 'clip')  # of open_clip_torch, and OpenAI's own
INSTALL = 'pip install --no-deps open_clip_torch'
_START, _END = '<|startoftext|>', '<|endoftext|>'
_MERGES = 49152 - 256 - 2  # of the 262143 rules in the file, those that CLIP was trained with


def is_openai_clip_id(source: str) -> bool:
    """Return whether a hub id is one of OpenAI's CLIP models."""
    return source.startswith('openai/clip-vit-')


def find_vocabulary() -> Path | None:
    """Return the vocabulary's file in an installed package, which is not imported (it may need what is not there)."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(folder) / FILE).is_file():
                return Path(folder) / FILE
    return None


def tokenizer_from_vocabulary(path: Path) -> Any:
    """Return the CLIPTokenizer of a vocabulary's file: gzip of a heading and one merge of two tokens a line.

    Raises:
        ValueError: when the file is damaged.
    """
    from transformers import CLIPTokenizer

    try:
        with gzip.open(path, 'rt', encoding='utf-8') as file:
            lines = file.read().split('\n')[1 : _MERGES + 1]
        merges = [(first, second) for first, second in (line.split() for line in lines if line)]
        if not merges:
            raise ValueError('it holds no merges')
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f'{str(path)!r} is damaged ({first_line(error)}). Install it again: {INSTALL}') from error
    letters = _byte_letters()
    tokens = [*letters, *(letter + '</w>' for letter in letters), *(a + b for a, b in merges), _START, _END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    # transformers' annotation says list[str]; its tokenizers take pairs
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)  # type: ignore[arg-type]


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte in the vocabulary's order: printable ones for themselves come first."""
    printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    others = 256 - len(printable)
    return [*map(chr, printable), *(chr(256 + number) for number in range(others))]
