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

"""The texts of one object: checked, encoded once, and mixed by where the camera stands."""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.guiders import Conditioning
from nemo_dreamfusion.modules.guidance.perp_neg import view_negative_weights
from nemo_dreamfusion.parts.checks import check_interval, nearest
from nemo_dreamfusion.parts.types import VIEWS, CameraBatch, PromptSet

_WORD_END = '</w>'


def check_overhead(value: float | Sequence[float]) -> tuple[float, float]:
    """(first, full): elevations at which the overhead text begins to mix in and is alone; one number switches there."""
    pair = (value, value) if isinstance(value, (int, float)) else value
    return check_interval('model.guidance.overhead_elevation_deg', pair, 0.0, 90.0)


def check_view_blend(value: Sequence[float]) -> tuple[float, float]:
    """(first, full): how far from the front, in degrees of azimuth, its text begins to fade and the side's is alone."""
    first, full = check_interval('model.guidance.view_blend_deg', value, 0.0, 90.0)
    return first, max(full, first + 1e-3)


def view_weights(
    azimuth_deg: Tensor,
    elevation_deg: Tensor,
    overhead_elevation_deg: tuple[float, float],
    view_blend_deg: tuple[float, float] = (0.0, 90.0),
) -> Tensor:
    """Shares of the texts front, side, back, overhead: [B], [B] -> [B, 4], each row sums to 1.

    By azimuth linearly over ``view_blend_deg``, counted from the front for front and side and from the back for back and
    side: (0, 90) has the front alone at 0, the side alone at +-90 and the back alone at 180 degrees. By elevation from
    those to the overhead text with a smooth step over ``overhead_elevation_deg``.
    """
    around = ((azimuth_deg.float() + 180.0) % 360.0 - 180.0).abs()
    begin, end = view_blend_deg
    front = ((end - around) / (end - begin)).clamp(0.0, 1.0)
    back = ((end - (180.0 - around)) / (end - begin)).clamp(0.0, 1.0)
    first, full = overhead_elevation_deg
    if full > first:
        x = ((elevation_deg.float() - first) / (full - first)).clamp(0.0, 1.0)
        overhead = x * x * (3 - 2 * x)
    else:
        overhead = (elevation_deg >= full).float()
    level = torch.stack([front, 1 - front - back, back], -1) * (1 - overhead)[:, None]
    return torch.cat([level, overhead[:, None]], -1)


@dataclass(frozen=True)
class PromptEmbeddings:
    """The encoded texts of a PromptSet. L tokens, D channels."""

    views: Tensor  # [4, L, D], in the order of VIEWS
    negative: Tensor  # [L, D], the negative prompt without a view (the empty text where there is none)
    empty: Tensor  # [L, D], the empty text
    plain: Tensor  # [L, D], the prompt without a view
    overhead_elevation_deg: tuple[float, float] = (60.0, 75.0)
    view_blend_deg: tuple[float, float] = (0.0, 90.0)
    has_negative: bool = False  # whether the negative prompt says anything

    @classmethod
    def encode(
        cls,
        prompts: PromptSet,
        tokenizer: Any,
        text_encoder: Callable[[Tensor], Tensor],
        *,
        device: torch.device | str,
        overhead_elevation_deg: tuple[float, float] = (60.0, 75.0),
        view_blend_deg: tuple[float, float] = (0.0, 90.0),
    ) -> PromptEmbeddings:
        """Encodes each text once. ``text_encoder``: tokens [n, L] -> [n, L, D]."""
        texts = [prompts.by_view()[view] for view in VIEWS] + [prompts.negative or '', '', prompts.prompt]
        with torch.no_grad():
            encoded = text_encoder(tokenize(tokenizer, texts).to(device)).float()
        return cls(
            encoded[:4],
            *encoded[4:],
            overhead_elevation_deg=overhead_elevation_deg,
            view_blend_deg=view_blend_deg,
            has_negative=bool((prompts.negative or '').strip()),
        )

    def weights(self, cameras: CameraBatch) -> Tensor:
        """Share of each view's text for each camera: [B, 4]."""
        return view_weights(
            cameras.azimuth_deg, cameras.elevation_deg, self.overhead_elevation_deg, self.view_blend_deg
        )

    def text(self, cameras: CameraBatch) -> Tensor:
        """The embedding for each camera, mixed from the views' ones: [B, L, D]."""
        weights = self.weights(cameras).to(self.views)
        return torch.einsum('bv,vld->bld', weights, self.views)

    def conditioning(self, cameras: CameraBatch, *, perp_neg: str | None = None) -> Conditioning:
        """The texts for these cameras.

        Guidance leads away from the negative prompt (the empty text where there is none). Under Perp-Neg it leads away
        from the empty text, as the method asks, and the negative prompt joins the views' negatives with weight -1.
        """
        count = len(cameras)
        common = {
            'text': self.text(cameras),
            'empty': self.empty.expand(count, -1, -1),
            'plain': self.plain.expand(count, -1, -1),
            'pose': cameras.camera_to_world.flatten(1).to(self.plain),
        }
        if perp_neg is None:
            return Conditioning(unconditional=self.negative.expand(count, -1, -1), **common)
        negatives = [self.views[VIEWS.index('front')], self.views[VIEWS.index('side')]]
        overhead = self.weights(cameras)[:, -1:]
        weights = view_negative_weights(cameras.azimuth_deg, perp_neg) * (1 - overhead)
        if self.has_negative:
            negatives.append(self.negative)
            weights = torch.cat([weights, torch.full_like(overhead, -1.0)], -1)
        return Conditioning(
            unconditional=self.empty.expand(count, -1, -1),
            negatives=torch.stack(negatives).expand(count, -1, -1, -1),
            negative_weights=weights,
            **common,
        )


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Padded token ids [n, L]; what is beyond the encoder's length is dropped with a warning that shows the words."""
    length = tokenizer.model_max_length
    for text in dict.fromkeys(texts):
        lost = dropped_words(tokenizer, text)
        if lost:
            warnings.warn(
                f'The text encoder reads {length} tokens; of {text!r} it does not see: {lost!r}. Shorten the prompt.',
                stacklevel=2,
            )
    batch = tokenizer(list(texts), padding='max_length', max_length=length, truncation=True, return_tensors='pt')
    return batch.input_ids


def dropped_words(tokenizer: Any, text: str) -> str:
    """The end of the text that does not fit into the encoder's tokens, as the tokenizer spells it; empty if all fits."""
    ids = tokenizer(text, truncation=False, verbose=False, add_special_tokens=False).input_ids
    return tokenizer.decode(ids[tokenizer.model_max_length - 2 :]).strip()


def check_prompts(tokenizer: Any, prompts: PromptSet) -> None:
    """ValueError for words that a tokenizer of a closed vocabulary does not know, with the nearest that it knows.

    Needs the tokenizer only. An open tokenizer (one that can spell any word, as the usual CLIP one) accepts all texts.
    """
    if not prompts.prompt.strip():
        raise ValueError("model.prompt is empty. Set model.prompt='a hamburger', or what you wish to see.")
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


def closed_vocabulary(tokenizer: Any) -> list[str] | None:
    """The words that the tokenizer holds as one token, or None when it can spell any word from its letters."""
    tokens = tokenizer.get_vocab()
    letters = string.ascii_lowercase
    if all(letter in tokens and letter + _WORD_END in tokens for letter in letters):
        return None
    words = {token.removesuffix(_WORD_END) for token in tokens if token.endswith(_WORD_END)}
    return sorted(word for word in words if len(tokenizer.tokenize(word)) == 1 and (len(word) > 1 or word == 'a'))


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """Words of the text that are not one known token: runs of letters, digits, or runs of other signs, as CLIP splits."""
    words = re.findall(r'[^\W\d_]+|\d|[^\s\w]+|_+', text.lower())
    return [word for word in words if _is_unknown(tokenizer, word)]


def _is_unknown(tokenizer: Any, word: str) -> bool:
    pieces = tokenizer.tokenize(word)
    return len(pieces) != 1 or tokenizer.convert_tokens_to_ids(pieces[0]) == tokenizer.unk_token_id


def _named(unknown: Iterable[str], known: Sequence[str]) -> str:
    """'dragn' (nearest: dragon), 'cubee' (nearest: cube)."""
    parts = []
    for word in unknown:
        close = nearest(word, [k for k in known if len(k) > 1])
        parts.append(f'{word!r}' + (f' (nearest: {", ".join(close)})' if close else ''))
    return ', '.join(parts)
