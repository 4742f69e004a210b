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

"""A model with what its user adds: LoRAs in its weights, learnt words in its text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from nemo_dreamfusion.checkpoints.families import SD
from nemo_dreamfusion.checkpoints.lora import Lora, read_loras
from nemo_dreamfusion.checkpoints.textual_inversion import (
    SETTING,
    ExtendedTokenizer,
    LearntWord,
    extend_encoder,
    read_words,
)
from nemo_dreamfusion.parts.checks import refuse


@dataclass(frozen=True)
class OwnWeights:
    """The node ``model.guidance.parts`` of an archive: what a user adds to its model.

    On a command line and in a YAML file each of its keys may stand without ``parts``: ``model.guidance.lora``.

    Attributes:
        lora: LoRAs to add to the weights, ``[{path: <file>.safetensors, scale: 0.8}]``, or the path of one.
        embeddings: words learnt by textual inversion, ``[{path: <file>.safetensors, token: '<cat>'}]``.
        tokenizer: folder, ``tokenizer.json`` or hub id of the tokenizer of CLIP text encoders; null: the model's own.
    """

    lora: str | Sequence[Mapping[str, Any]] | None = None
    embeddings: Sequence[Mapping[str, Any]] | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class OwnParts(OwnWeights):
    """The node ``model.guidance.parts`` of any other model.

    Attributes:
        unet: a finetuned UNet in place of the model's own: a file or a folder.
        without: parts to leave out although the model has them: ``[text_encoder_3]``, the T5 of a Stable Diffusion 3.
    """

    unet: str | None = None
    without: Sequence[str] | None = None


def add_own_weights(weights: Any, *, lora: Any = None, embeddings: Any = None) -> Any:
    """Return a checkpoint with a user's own weights; itself, where there are none. No file is looked at.

    Args:
        weights: a :class:`Checkpoint`.
        lora: ``[{path: …, scale: 0.8}, …]``; scale is 1 where it is left out.
        embeddings: ``[{path: …, token: '<cat>'}, …]``.

    Raises:
        ValueError: for an entry of another form.
    """
    if not (read_loras(lora) or read_words(embeddings)):
        return weights
    return AdaptedCheckpoint(weights, lora=lora, embeddings=embeddings)


class AdaptedCheckpoint:
    """A :class:`Checkpoint` whose networks come with LoRAs and learnt words; everything else is the checkpoint's own.

    Every file is checked by its header before a network is loaded.
    """

    def __init__(self, weights: Any, *, lora: Any, embeddings: Any) -> None:
        self._weights, self._lora, self._embeddings = weights, lora, embeddings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._weights, name)

    @cached_property
    def _loras(self) -> list[Lora]:
        return read_loras(self._lora, self._family.denoiser)

    @cached_property
    def _words(self) -> list[LearntWord]:
        return read_words(self._embeddings)

    @property
    def _family(self) -> Any:
        return getattr(self._weights, 'family', SD)  # an archive holds a Stable Diffusion

    @property
    def _encoders(self) -> tuple[str, ...]:
        return tuple(getattr(self._weights, 'encoders', SD.encoders))

    @property
    def _model(self) -> str:
        return f'{self._weights.name!r} ({self._family.title})'

    def check(self) -> None:
        """Refuse what cannot guide; loads no weights."""
        self._weights.check()
        self._check_own()

    def _check_own(self) -> None:
        _ = self._checked

    @cached_property
    def _checked(self) -> bool:
        """Whether each file fits the model: known after a look at the headers."""
        parts = (self._family.denoiser, *self._encoders)
        for lora in self._loras:
            lora.check(self._weights.build_empty, parts, self._model)
        if self._words:
            encoders = {part: self._weights.build_empty(part) for part in self._encoders}
            if any(type(encoder).__name__[:4] != 'CLIP' for encoder in encoders.values()):
                allowed = f'null with {self._family.title}: words are learnt for CLIP text encoders alone'
                refuse(SETTING, self._embeddings, allowed, f'Set {SETTING}=null.')
            widths = {part: int(encoder.config.hidden_size) for part, encoder in encoders.items()}
            for word in self._words:
                word.check(widths)
        return True

    def unet(self, dtype: torch.dtype | None) -> nn.Module:
        return self._load('unet', self._weights.unet, dtype)

    def transformer(self, dtype: torch.dtype | None) -> nn.Module:
        return self._load('transformer', self._weights.transformer, dtype)

    def text_encoder(self, dtype: torch.dtype | None, part: str = 'text_encoder') -> nn.Module:
        more = () if part == 'text_encoder' else (part,)
        model = self._load(part, lambda kind: self._weights.text_encoder(kind, *more), dtype)
        if self._words:
            tokenizer = self.tokenizer(part)
            ids = tokenizer.convert_tokens_to_ids([token for tokens in self._tokens.values() for token in tokens])
            vectors = torch.cat([word.vectors(part, self._encoders) for word in self._words])
            extend_encoder(model, ids, vectors, tokenizer.eos_token_id)
        return model

    def _load(self, part: str, load: Any, dtype: torch.dtype | None) -> nn.Module:
        """Load a network with the LoRAs that change it, which are added before its precision is."""
        self._check_own()
        loras = [lora for lora in self._loras if lora.has(part)]
        if not loras:
            return load(dtype)
        network = load(None)
        for lora in loras:
            lora.fuse(network, part, self._model)
        return network if dtype is None else network.to(dtype)

    @property
    def _tokens(self) -> dict[str, list[str]]:
        return {word.token: word.tokens(self._encoders) for word in self._words}

    def tokenizer(self, part: str = 'text_encoder') -> Any:
        more = () if part == 'text_encoder' else (part,)
        tokenizer = self._weights.tokenizer(*more)
        if not self._words:
            return tokenizer
        self._check_own()
        return ExtendedTokenizer(tokenizer, self._tokens, [word.file.setting for word in self._words])

    def text_identity(self) -> Any:
        """Return what tells the texts' encoders from all others; None where the checkpoint does not know."""
        if not hasattr(self._weights, 'text_identity'):
            return None
        self._check_own()
        changed = [lora for lora in self._loras if any(lora.has(part) for part in self._encoders)]
        loras = [[*lora.file.identity(), lora.scale] for lora in changed]
        words = [[*word.file.identity(), word.token] for word in self._words]
        own = [self._weights.text_identity(), loras, words]
        return own if loras or words else own[0]
