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

"""Stable Diffusion XL (Podell et al., https://arxiv.org/abs/2307.01952), and what is distilled from it, such as SSD-1B.

Two CLIP text encoders, whose last states but one lie side by side; the pooled text of the second and six numbers of sizes
and crops (section 2.2) are added to the embedding of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.attention import ATTENTION
from nemo_dreamfusion.modules.guidance.families.base import (
    Family,
    append_vector,
    in_parts,
    loaded,
    rows_for,
    split_vector,
)
from nemo_dreamfusion.modules.guidance.networks.base import UNet2DConditionModel
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor
from nemo_dreamfusion.modules.guidance.prompts import tokenize


class StableDiffusionXL(Family):
    """The family ``sdxl``; the pooled text lies behind the tokens of the context."""

    title = 'Stable Diffusion XL'
    trains_unet = True
    attention: tuple[str, ...] = ATTENTION

    def encode(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        states = []
        pooled = torch.empty(0)
        for part in ('text_encoder', 'text_encoder_2'):
            found = encode_clip(self.weights, part, texts, dtype, device)
            states.append(found[0])
            pooled = found[1]
        context = append_vector(torch.cat(states, -1), pooled)
        if self.weights.index().get('force_zeros_for_empty_prompt', True):
            context[[not text.strip() for text in texts]] = 0.0
        return context

    def predictor(self, network: nn.Module) -> Any:
        return XLNoisePredictor(network, pooled=self._pooled(), factor=self.factor())

    def _pooled(self) -> int:
        return self.weights.config('text_encoder_2')['projection_dim']

    def vae_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return float32 in the place of float16 where the VAE's configuration says that it overflows there."""
        overflows = dtype == torch.float16 and self.weights.config('vae').get('force_upcast', True)
        return torch.float32 if overflows else dtype

    def context_shape(self) -> tuple[int, int]:
        width = self.weights.config('unet')['cross_attention_dim']
        return 77 + rows_for(self._pooled(), width), width


class XLNoisePredictor(NoisePredictor):
    """A UNet with a pooled text: x [N, C, h, w], t [N], context [N, L + rows, D] -> output [N, C, h, w].

    Args:
        unet: the network, in any precision.
        pooled: numbers of the pooled text, which lie behind the tokens.
        factor: pixels per latent pixel, along a side: the network is told the size of the picture, uncropped.
    """

    def __init__(self, unet: UNet2DConditionModel, *, pooled: int, factor: int) -> None:
        super().__init__(unet)
        self.pooled, self.factor = pooled, factor

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the UNet's output [N, C, h, w], in its own precision."""
        tokens, pooled = split_vector(context.to(self.dtype), self.pooled)
        height, width = (side * self.factor for side in x.shape[-2:])
        sizes = tokens.new_tensor([[height, width, 0, 0, height, width]]).expand(len(x), -1)
        added = {'text_embeds': pooled, 'time_ids': sizes}
        output = self.unet(x.to(self.dtype), t, encoder_hidden_states=tokens, added_cond_kwargs=added).sample
        return output[:, : self.channels]


def encode_clip(
    weights: object, part: str, texts: Sequence[str], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the last states but one [n, L, D] and the projected text [n, P] of a CLIP text encoder, float32.

    Of an encoder without a projection the second is its pooled state, which nobody reads.
    """
    tokenizer = weights.tokenizer(part)  # type: ignore[attr-defined]
    pooled = []
    with loaded(weights.text_encoder(dtype, part), device) as model:  # type: ignore[attr-defined]

        def states(some: Sequence[str]) -> Tensor:
            output = model(tokenize(tokenizer, some).to(device), output_hidden_states=True)
            pooled.append((output.text_embeds if hasattr(output, 'text_embeds') else output.pooler_output).float())
            return output.hidden_states[-2]

        found = in_parts(texts, states)
    return found, torch.cat(pooled)
