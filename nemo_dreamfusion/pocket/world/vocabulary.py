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

"""Write the files of a CLIP tokenizer over a closed vocabulary, in which every known word is one token.

It lacks most letters, so `modules/guidance/prompts.py` sees that it cannot spell other words, and refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

START, END = '<|startoftext|>', '<|endoftext|>'
_WORD_END = '</w>'


def merge_rules(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges, in order of rank, that make each word one token.

    Each word is first merged by the rules so far; what is left is joined from the left by new rules of lower rank,
    which leave the earlier words as they are (byte-pair encoding: Sennrich et al., https://arxiv.org/abs/1508.07909).
    """
    rules: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + _WORD_END]
        pieces = _merge(pieces, rules)
        while len(pieces) > 1:
            rules[pieces[0], pieces[1]] = len(rules)
            pieces = _merge(pieces, rules)
    return list(rules)


def _merge(pieces: list[str], rules: dict[tuple[str, str], int]) -> list[str]:
    """Merge pieces by byte-pair encoding, always the rule of the best rank first."""
    while len(pieces) > 1:
        ranks = [rules.get(pair, len(rules)) for pair in zip(pieces, pieces[1:])]
        best = min(ranks)
        if best == len(rules):
            break
        i = ranks.index(best)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
    return pieces


def write_tokenizer_files(folder: Path, words: Iterable[str]) -> None:
    """Write `vocab.json` and `merges.txt`, which CLIPTokenizer reads."""
    words = sorted(words)
    rules = merge_rules(words)
    letters = {letter for word in words for letter in word[:-1]} | {word[-1] + _WORD_END for word in words}
    tokens = [*sorted(letters), *dict.fromkeys(a + b for a, b in rules), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / 'vocab.json').write_text(json.dumps(vocabulary, indent=0) + '\n', encoding='utf-8')
    lines = ['#version: 0.2', *(f'{a} {b}' for a, b in rules)]
    (folder / 'merges.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
