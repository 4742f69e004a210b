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

"""Stable Diffusion 1.x and 2.x, from whatever file: one CLIP text encoder, noise or v from a UNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.attention import ATTENTION
from nemo_dreamfusion.modules.guidance.families.base import TEXTS_AT_ONCE, Family
from nemo_dreamfusion.modules.guidance.networks.base import UNetLike, freeze
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.text_encoder import TextEncoder
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor, load_noise_predictor
from nemo_dreamfusion.modules.guidance.prompts import tokenize


class StableDiffusion(Family):
    """The family ``sd``; the context is the text encoder's states, padded with zeros where the checkpoint says so."""

    trains_unet = True
    attention: tuple[str, ...] = ATTENTION

    def encode(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        encoder = freeze(TextEncoder(self.weights.text_encoder(dtype), self.weights.context_length()), device)
        tokenizer = self.weights.tokenizer()  # last: the text encoder's sizes are then known to it
        return encode_tokens(tokenize(tokenizer, texts), encoder, device)

    def load_noise_predictor(self, dtype: torch.dtype, device: torch.device, options: NetworkOptions) -> UNetLike:
        return load_noise_predictor(self.weights, dtype, device, options)

    def predictor(self, network: nn.Module) -> Any:
        return NoisePredictor(network)

    def context_shape(self) -> tuple[int, int]:
        width = self.weights.config('unet')['cross_attention_dim']
        return 77, width if isinstance(width, int) else width[0]


def encode_tokens(tokens: Tensor, encoder: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """Return the embeddings [n, L', D], float32, of tokens [n, L]."""
    with torch.no_grad():
        return torch.cat([encoder(part).float() for part in tokens.to(device).split(TEXTS_AT_ONCE)])
