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

"""The texts of one object: checked, debiased by view, encoded once, and mixed by where the camera stands."""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, view_negative_weights
from nemo_dreamfusion.parts.checks import check_interval, nearest
from nemo_dreamfusion.parts.types import VIEWS, CameraBatch, PromptSet
from nemo_dreamfusion.parts.views import View, table_weights

_WORD_END = '</w>'
THRESHOLD = 0.95  # of the debiasing

ViewProbabilities = Callable[[str], Sequence[float]]  # a text -> one number per view of VIEWS


@dataclass(frozen=True)
class PromptOptions:
    """The node ``model.guidance.prompts``: how the views' texts are made and mixed.

    Attributes:
        view_blend_deg: [first, full] azimuths from the front between which its text fades into the side's (and from the
            back, likewise): [0, 90] mixes everywhere; a model whose captions switch at 60 degrees wants [50, 70].
        overhead_elevation_deg: [first, full] elevations between which the overhead text fades in; one number switches there.
        cache: null, a folder for encoded texts, or ``auto``, one of the user's caches: a second run with the same model and
            texts loads no text encoder.
        debias: null, or a masked language model (folder or hub id) that takes words that speak against a view out of its
            text.
    """

    view_blend_deg: Sequence[float] = (0.0, 90.0)
    overhead_elevation_deg: float | Sequence[float] = (60.0, 75.0)
    debias: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        check_interval('model.guidance.prompts.view_blend_deg', self.view_blend_deg, 0.0, 90.0)
        check_interval('model.guidance.prompts.overhead_elevation_deg', self.overhead_interval_deg, 0.0, 90.0)

    @property
    def overhead_interval_deg(self) -> Sequence[float]:
        """``overhead_elevation_deg`` as a pair."""
        value = self.overhead_elevation_deg
        return (value, value) if isinstance(value, (int, float)) else value


def view_weights(azimuth_deg: Tensor, elevation_deg: Tensor, options: PromptOptions) -> Tensor:
    """Return the shares of the texts front, side, back, overhead: [B], [B] -> [B, 4], each row sums to 1.

    By azimuth linearly over ``view_blend_deg``, counted from the front for front and side and from the back for back and
    side: (0, 90) has the front alone at 0, the side alone at +-90 and the back alone at 180 degrees. By elevation from
    those to the overhead text with a smooth step over ``overhead_elevation_deg``.

    >>> view_weights(torch.tensor([0.0, 45.0, 180.0]), torch.zeros(3), PromptOptions())
    tensor([[1.0000, 0.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 1.0000, 0.0000]])
    """
    around = ((azimuth_deg.float() + 180.0) % 360.0 - 180.0).abs()
    begin, end = options.view_blend_deg
    end = max(end, begin + 1e-3)
    front = ((end - around) / (end - begin)).clamp(0.0, 1.0)
    back = ((end - (180.0 - around)) / (end - begin)).clamp(0.0, 1.0)
    first, full = options.overhead_interval_deg
    if full > first:
        x = ((elevation_deg.float() - first) / (full - first)).clamp(0.0, 1.0)
        overhead = x * x * (3 - 2 * x)
    else:
        overhead = (elevation_deg >= full).float()
    level = torch.stack([front, 1 - front - back, back], -1) * (1 - overhead)[:, None]
    return torch.cat([level, overhead[:, None]], -1)


@dataclass(frozen=True)
class PromptEmbeddings:
    """The encoded texts of a PromptSet. V views, L tokens, D channels."""

    views: Tensor  # [V, L, D], in the order of the table or of VIEWS
    negative: Tensor  # [L, D], the negative prompt without a view (the empty text where there is none)
    empty: Tensor  # [L, D], the empty text
    plain: Tensor  # [L, D], the prompt without a view
    options: PromptOptions = field(default_factory=PromptOptions)
    faulty: Tensor | None = None  # [V, L, D], ``views`` with the words for faults
    has_negative: bool = False  # whether the negative prompt says anything
    table: tuple[View, ...] = ()  # empty: NeMo's four views

    @classmethod
    def encode(
        cls,
        prompts: PromptSet,
        encode_texts: Callable[[Sequence[str]], Tensor],
        *,
        options: PromptOptions,
        fault_words: str = '',
    ) -> PromptEmbeddings:
        """Encode each text once. ``encode_texts``: n texts -> [n, L, D], float32; ``fault_words``: a score's."""
        texts = list(prompts.by_view().values())
        faulty = [f'{text}, {fault_words}' for text in texts] if fault_words else []
        encoded = encode_texts([*faulty, *texts, prompts.negative or '', '', prompts.prompt])
        negative, empty, plain = encoded[-3:]
        return cls(
            encoded[len(faulty) : -3],
            negative,
            empty,
            plain,
            options=options,
            faulty=encoded[: len(faulty)] if faulty else None,
            has_negative=bool((prompts.negative or '').strip()),
            table=prompts.views,
        )

    def weights(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
        """Return the share of each view's text for cameras at these angles: [B], [B] -> [B, V]."""
        if self.table:
            return table_weights(self.table, azimuth_deg, elevation_deg)
        return view_weights(azimuth_deg, elevation_deg, self.options)

    def text(self, cameras: CameraBatch) -> Tensor:
        """Return the embedding for each camera, mixed from the views' ones: [B, L, D]."""
        return self._mix(cameras.azimuth_deg, cameras.elevation_deg, self.views)

    def _mix(self, azimuth_deg: Tensor, elevation_deg: Tensor, views: Tensor) -> Tensor:
        return torch.einsum('bv,vld->bld', self.weights(azimuth_deg, elevation_deg).to(views), views)

    def conditioning(self, cameras: CameraBatch, *, perp_neg: str | None = None) -> Conditioning:
        """Return the texts and poses for these cameras.

        Guidance leads away from the negative prompt (the empty text where there is none). Under Perp-Neg it leads away
        from the empty text, as the method asks, and the negative prompt joins the views' negatives with weight -1.
        """
        count = len(cameras)
        angles = (cameras.azimuth_deg, cameras.elevation_deg)
        faulty = None if self.faulty is None else self._mix(*angles, self.faulty)
        common: dict[str, Any] = {
            'text': self.text(cameras),
            'empty': self.empty.expand(count, -1, -1),
            'plain': self.plain.expand(count, -1, -1),
            'pose': cameras.camera_to_world.flatten(1).to(self.plain),
        }
        if perp_neg is None:
            return Conditioning(unconditional=self.negative.expand(count, -1, -1), faulty=faulty, **common)
        negatives, weights = self._view_negatives(cameras, perp_neg)
        if self.has_negative:
            negatives.append(self.negative.expand(count, -1, -1))
            weights = torch.cat([weights, torch.full_like(weights[:, :1], -1.0)], -1)
        return Conditioning(
            unconditional=self.empty.expand(count, -1, -1),
            negatives=torch.stack(negatives, 1),
            negative_weights=weights,
            faulty=faulty,
            **common,
        )

    def _view_negatives(self, cameras: CameraBatch, style: str) -> tuple[list[Tensor], Tensor]:
        """Return the texts of the front and of the side [B, L, D] that Perp-Neg leads away from, and their weights [B, 2].

        Of a table they are those at the camera's own elevation and side; NeMo's overhead text takes none.
        """
        azimuth, elevation = cameras.azimuth_deg, cameras.elevation_deg
        weights = view_negative_weights(azimuth, style)
        if self.table:
            side = torch.where((azimuth + 180.0) % 360.0 < 180.0, -90.0, 90.0)
            return [self._mix(turn, elevation, self.views) for turn in (torch.zeros_like(azimuth), side)], weights
        texts = (self.views[VIEWS.index(name)].expand(len(cameras), -1, -1) for name in ('front', 'side'))
        return list(texts), weights * (1 - self.weights(azimuth, elevation)[:, -1:])


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Return padded token ids [n, L]; what exceeds the encoder's length is dropped, with a warning that shows the words."""
    warn_of_dropped_words(tokenizer, texts)
    length = tokenizer.model_max_length
    batch = tokenizer(list(texts), padding='max_length', max_length=length, truncation=True, return_tensors='pt')
    return batch.input_ids


def warn_of_dropped_words(tokenizer: Any, texts: Sequence[str]) -> None:
    """Warn of each text whose end the encoder does not see, with the words."""
    length = tokenizer.model_max_length
    for text in dict.fromkeys(texts):
        lost = dropped_words(tokenizer, text)
        if lost:
            warnings.warn(
                f'The text encoder reads {length} tokens; of {text!r} it does not see: {lost!r}. Shorten the prompt.',
                stacklevel=3,
            )


def dropped_words(tokenizer: Any, text: str) -> str:
    """Return the end of the text that the encoder's tokens cannot hold, as the tokenizer spells it; empty if all fits."""
    ids = tokenizer(text, truncation=False, verbose=False, add_special_tokens=False).input_ids
    return tokenizer.decode(ids[tokenizer.model_max_length - 2 :]).strip()


def check_prompts(tokenizer: Any, prompts: PromptSet) -> None:
    """Refuse words that a tokenizer of a closed vocabulary does not know, with the nearest that it knows.

    Needs the tokenizer only. An open tokenizer (one that can spell any word, as the usual CLIP one) accepts all texts.

    Raises:
        ValueError: for an empty prompt or unknown words.
    """
    check_not_empty(prompts)
    known = closed_vocabulary(tokenizer)
    if known is None:
        return
    texts = [prompts.prompt, *prompts.by_view().values(), prompts.negative or '']
    unknown = list(dict.fromkeys(word for text in texts for word in unknown_words(tokenizer, text)))
    if not unknown:
        return
    raise ValueError(
        f'This diffusion model does not know {_named(unknown, known)} of model.prompt={prompts.prompt!r}. '
        f'It knows: {" ".join(sorted(word for word in known if word.isalpha()))}. '
        'Change the prompt, or set model/guidance=sd_huggingface, which accepts any prompt.'
    )


def check_not_empty(prompts: PromptSet) -> None:
    """Raise ValueError for an empty prompt."""
    if not prompts.prompt.strip():
        raise ValueError("model.prompt is empty. Set model.prompt='a hamburger', or what you wish to see.")


def closed_vocabulary(tokenizer: Any) -> list[str] | None:
    """Return the words that the tokenizer holds as one token, or None when it can spell any word from its letters."""
    tokens = tokenizer.get_vocab()
    letters = string.ascii_lowercase
    if all(letter in tokens and letter + _WORD_END in tokens for letter in letters):
        return None
    words = {token.removesuffix(_WORD_END) for token in tokens if token.endswith(_WORD_END)}
    return sorted(word for word in words if len(tokenizer.tokenize(word)) == 1 and (len(word) > 1 or word == 'a'))


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """Return the words of the text that are not one known token.

    A word is a run of letters, a digit, or a run of other signs, as CLIP splits.
    """
    text = tokenizer.without_new_words(text) if hasattr(tokenizer, 'without_new_words') else text
    words = re.findall(r'[^\W\d_]+|\d|[^\s\w]+|_+', text.lower())
    return [word for word in words if _is_unknown(tokenizer, word)]


def _is_unknown(tokenizer: Any, word: str) -> bool:
    pieces = tokenizer.tokenize(word)
    return len(pieces) != 1 or tokenizer.convert_tokens_to_ids(pieces[0]) == tokenizer.unk_token_id


def _named(unknown: Iterable[str], known: Sequence[str]) -> str:
    """Name words as in: 'dragn' (nearest: dragon), 'cubee' (nearest: cube)."""
    parts = []
    for word in unknown:
        close = nearest(word, [k for k in known if len(k) > 1])
        parts.append(f'{word!r}' + (f' (nearest: {", ".join(close)})' if close else ''))
    return ', '.join(parts)


def drops_word(full: Sequence[float], without: Sequence[float], threshold: float = THRESHOLD) -> list[bool]:
    """Say for each view whether a word is left out of its text.

    It is where P / (P / 2 + P' / 2) < threshold, P the view's probability with the word and P' without it, both normalised
    over the views (https://arxiv.org/abs/2303.15413).

    >>> drops_word((0.7, 0.1, 0.1, 0.1), (0.25, 0.25, 0.25, 0.25))  # "smiling": of the front alone
    [False, True, True, True]
    """
    full, without = [[p / sum(row) for p in row] for row in (full, without)]
    return [p < threshold * (0.5 * p + 0.5 * q) for p, q in zip(full, without)]


def debias_by_view(prompt: str, probabilities: ViewProbabilities, threshold: float = THRESHOLD) -> dict[str, str]:
    """Return the prompt for each view, without the words that speak against the view.

    Args:
        prompt: the text.
        probabilities: how likely each view of a text is; a masked language model fills in "This image is depicting a [MASK]
            view of <prompt>".
        threshold: of :func:`drops_word`.
    """
    words = prompt.split()
    full = probabilities(prompt)
    kept: dict[str, list[str]] = {view: [] for view in VIEWS}
    for i, word in enumerate(words):
        without = ' '.join(words[:i] + words[i + 1 :])
        drop = drops_word(full, probabilities(without), threshold) if without else [False] * len(VIEWS)
        for view, dropped in zip(VIEWS, drop):
            if not dropped:
                kept[view].append(word)
    return {view: ' '.join(view_words) or prompt for view, view_words in kept.items()}


def remove_view_bias(prompts: PromptSet, probabilities: ViewProbabilities) -> PromptSet:
    """Return the same texts with debiased ones for the views that the user did not write."""
    texts = debias_by_view(prompts.prompt, probabilities)
    made = {view: texts[view] + added for view, added in zip(VIEWS, prompts.added, strict=True)}
    changes: dict[str, Any] = {view: text for view, text in made.items() if not prompts.written()[view]}
    return replace(prompts, **changes)
