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

"""Stable Diffusion 3 and 3.5 (Esser et al., https://arxiv.org/abs/2403.03206): a rectified flow with three text encoders.

The states of two CLIP encoders lie side by side, padded to the width of T5's, whose tokens follow; their pooled texts are
added to the embedding of the time. Without T5 its tokens are zeros, as in training (section 5.3.3: 46 % of the texts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.families.base import (
    Family,
    append_vector,
    in_parts,
    loaded,
    rows_for,
    split_vector,
)
from nemo_dreamfusion.modules.guidance.families.sdxl import encode_clip

T5, T5_TOKENS = 'text_encoder_3', 256


class StableDiffusion3(Family):
    """The family ``sd3``; the pooled texts lie behind the tokens of the context."""

    title = 'Stable Diffusion 3'

    def encode(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        found = [encode_clip(self.weights, part, texts, dtype, device) for part in ('text_encoder', 'text_encoder_2')]
        clip, pooled = (torch.cat(parts, -1) for parts in zip(*found))
        language = self._encode_t5(texts, dtype, device)
        tokens = torch.cat([F.pad(clip, (0, language.shape[-1] - clip.shape[-1])), language], 1)
        return append_vector(tokens, pooled)

    def _encode_t5(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        if T5 not in self.weights.encoders:
            width = self.context_shape()[1]
            return torch.zeros(len(texts), T5_TOKENS, width, device=device)
        tokenizer = self.weights.tokenizer(T5)
        with loaded(self.weights.text_encoder(self.text_dtype(T5, dtype), T5), device) as model:
            return in_parts(
                texts,
                lambda some: model(
                    tokenizer(
                        list(some), padding='max_length', max_length=T5_TOKENS, truncation=True, return_tensors='pt'
                    ).input_ids.to(device)
                )[0],
            )

    def predictor(self, network: nn.Module) -> Any:
        return SD3NoisePredictor(network)

    def text_dtype(self, part: str, dtype: torch.dtype) -> torch.dtype:
        """Return bfloat16 in the place of float16 for T5, whose numbers are larger than float16 goes."""
        return torch.bfloat16 if part == T5 and dtype == torch.float16 else dtype

    def context_shape(self) -> tuple[int, int]:
        config = self.weights.config('transformer')
        width = config.get('joint_attention_dim', 4096)
        return 77 + T5_TOKENS + rows_for(config.get('pooled_projection_dim', 2048), width), width


class SD3NoisePredictor(nn.Module):
    """A diffusion transformer: x [N, C, h, w], 1000 sigma [N], context [N, L + rows, D] -> eps - x0 [N, C, h, w]."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer, self.dtype = transformer, transformer.dtype
        self.channels: int = transformer.config.in_channels
        self.latent_size: int = transformer.config.sample_size
        self.pooled: int = transformer.config.pooled_projection_dim

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the velocity, in the network's own precision."""
        tokens, pooled = split_vector(context.to(self.dtype), self.pooled)
        return self.transformer(
            hidden_states=x.to(self.dtype), timestep=t, encoder_hidden_states=tokens, pooled_projections=pooled
        ).sample
