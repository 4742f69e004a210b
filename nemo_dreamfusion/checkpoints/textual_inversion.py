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

"""Textual inversion (Gal et al., https://arxiv.org/abs/2208.01618): new words, each of one or several learnt vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.adapter_files import AdapterFile, check_entries
from nemo_dreamfusion.parts.checks import refuse

SETTING = 'model.guidance.embeddings'
_OF_ENCODER = {'clip_l': 'text_encoder', 'clip_g': 'text_encoder_2'}  # of Stable Diffusion XL's files


class LearntWord:
    """A word and the file of its vectors.

    Args:
        path: a ``.safetensors`` file: one tensor of any name, or ``clip_l`` and ``clip_g`` for a model of two encoders.
        token: the word, as the prompts write it.
        setting: where it stands in the configuration.
    """

    def __init__(self, path: str, *, token: str, setting: str = f'{SETTING}[0]') -> None:
        if re.search(r'\s', token):
            refuse(f'{setting}.token', token, 'one word without spaces', f"Set {setting}.token='<cat>'.")
        self.token = token
        self.file = AdapterFile(path, setting, 'a textual inversion in safetensors')

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self.file.shapes()

    def _names(self, encoders: Sequence[str]) -> dict[str, str]:
        """Return the name of the tensor for each text encoder."""
        shapes = self._shapes
        if set(shapes) & set(_OF_ENCODER):
            found = {_OF_ENCODER[name]: name for name in shapes if name in _OF_ENCODER}
        elif len(shapes) == 1:
            found = {'text_encoder': next(iter(shapes))}
        else:
            self.file.refuse(f'it holds {len(shapes)} tensors: this is {self.file.contents() or "something else"}')
        if set(found) != set(encoders):
            made = 'Stable Diffusion XL' if len(found) > 1 else 'a model of one text encoder'
            self.file.refuse(f'it was made for {made}, and this model has {", ".join(encoders)}')
        return found

    def check(self, widths: Mapping[str, int]) -> None:
        """Refuse a file that does not fit the text encoders. Reads its header only.

        Args:
            widths: the numbers of a token's vector in each text encoder.
        """
        names = self._names(tuple(widths))
        counts = {self._rows(name) for name in names.values()}
        for part, width in widths.items():
            shape = self._shapes[names[part]]
            if len(shape) not in (1, 2) or 0 in shape or shape[-1] != width:
                self.file.refuse(
                    f'its {names[part]} has the shape {list(shape)}, and the {part} takes vectors of {width}'
                )
        if len(counts) > 1:
            self.file.refuse('it has different numbers of vectors for the text encoders')

    def _rows(self, name: str) -> int:
        shape = self._shapes[name]
        return shape[0] if len(shape) == 2 else 1

    def tokens(self, encoders: Sequence[str]) -> list[str]:
        """Return the tokens that stand for the word, one for each vector: ``<cat>``, ``<cat>_1``, ..."""
        count = self._rows(next(iter(self._names(encoders).values())))
        return [self.token, *(f'{self.token}_{i}' for i in range(1, count))]

    def vectors(self, part: str, encoders: Sequence[str]) -> Tensor:
        """Return the vectors for a text encoder [n, D], float32."""
        name = self._names(encoders)[part]
        return self.file.tensors([name])[name].reshape(-1, self._shapes[name][-1])


class ExtendedTokenizer:
    """A CLIP tokenizer that knows new words: in a text each becomes its tokens.

    Args:
        tokenizer: a CLIPTokenizer, which is changed.
        words: the tokens of each new word.
        settings: where each stands in the configuration.

    Raises:
        ValueError: for a word that it knows already.
    """

    def __init__(self, tokenizer: Any, words: Mapping[str, Sequence[str]], settings: Sequence[str]) -> None:
        for word, setting in zip(words, settings, strict=True):
            known = tokenizer.get_vocab()
            if {word.lower(), f'{word.lower()}</w>'} & set(known):
                refuse(
                    f'{setting}.token',
                    word,
                    'a word that the tokenizer does not know',
                    f"Set {setting}.token='<{word}>'.",
                )
            tokenizer.add_tokens(list(words[word]))
        self._tokenizer = tokenizer
        self._spelled = {word.lower(): ' '.join(tokens) for word, tokens in words.items()}
        longest_first = sorted(words, key=len, reverse=True)
        self._pattern = re.compile('|'.join(re.escape(word) for word in longest_first), re.IGNORECASE)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, *args: Any, **options: Any) -> Any:
        spelled = self.spell(text) if isinstance(text, str) else [self.spell(one) for one in text]
        return self._tokenizer(spelled, *args, **options)

    def spell(self, text: str) -> str:
        """Return the text with each new word as its tokens."""
        return self._pattern.sub(lambda match: self._spelled[match[0].lower()], text)

    def without_new_words(self, text: str) -> str:
        """Return the text without its new words."""
        return self._pattern.sub(' ', text)


def extend_encoder(model: nn.Module, ids: Sequence[int], vectors: Tensor, eos: int) -> None:
    """Give a CLIP text model rows for new tokens, in place.

    The end of a text is looked for by its token from then on: configurations of before 2023 take the largest one for it.

    Args:
        model: a CLIPTextModel.
        ids: of the new tokens.
        vectors: their rows [n, D].
        eos: the token at the end of a text.
    """
    old: Any = model.get_input_embeddings()  # type: ignore[operator]
    weight = old.weight.data
    rows = max(len(weight), max(ids) + 1)
    table = torch.cat([weight, weight.new_zeros(rows - len(weight), weight.shape[1])])
    table[list(ids)] = vectors.to(table)
    model.set_input_embeddings(nn.Embedding.from_pretrained(table))  # type: ignore[operator]
    for module in model.modules():
        if hasattr(module, 'eos_token_id'):
            module.eos_token_id = eos  # type: ignore[assignment]


def read_words(given: Any) -> list[LearntWord]:
    """Return the words that ``model.guidance.embeddings`` names; no file is looked at.

    Raises:
        ValueError: for what is no list of ``{path: …, token: …}``, and for a word that is there twice.
    """
    words = [LearntWord(**entry) for entry in check_entries(SETTING, given, ('path', 'token'))]
    seen: set[str] = set()
    for word in words:
        if word.token.lower() in seen:
            refuse(f'{word.file.setting}.token', word.token, 'another word than the others', 'Name each word once.')
        seen.add(word.token.lower())
    return words
