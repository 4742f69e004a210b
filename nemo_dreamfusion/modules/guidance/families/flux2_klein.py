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

"""FLUX.2 klein, the undistilled base model (Black Forest Labs, Apache-2.0): a rectified flow over patches of latents.

Latents are the VAE's in patches of 2 x 2, each of whose channels is normalised by the statistics of a batch norm. The
context is three layers of Qwen3, side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.families.language import LATENT_SIZE, TOKENS, LanguageFamily
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.vae import ImageEncoder, ImageLatents, load_image_latents

PATCH = 2


class Flux2Klein(LanguageFamily):
    """The family ``flux2_klein``."""

    title = 'FLUX.2 klein'
    layers = (9, 18, 27)

    def encode(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.states(texts, dtype, device)[0]

    def image_tokens(self, latent_size: int) -> int:
        return latent_size**2

    def predictor(self, network: nn.Module) -> Any:
        return Flux2NoisePredictor(network)

    def factor(self) -> int:
        return PATCH * super().factor()

    def context_shape(self) -> tuple[int, int]:
        return TOKENS, self.weights.config('transformer')['joint_attention_dim']

    def load_image_latents(self, dtype: torch.dtype, device: torch.device, options: NetworkOptions) -> ImageLatents:
        return load_image_latents(self.weights, dtype, device, options, kind=PatchLatents)


class PatchLatents(ImageLatents):
    """From images to patches of latents, each channel of a patch with mean 0 and variance 1: [B, 4 C, h / 2, w / 2]."""

    def __init__(self, encoder: ImageEncoder, *, channels_last: bool = False) -> None:
        super().__init__(encoder, channels_last=channels_last)
        norm = encoder.vae.bn
        self.channels *= PATCH**2
        self.factor *= PATCH
        self.mean: Tensor = norm.running_mean.float().view(1, -1, 1, 1)
        self.deviation: Tensor = (norm.running_var.float() + norm.eps).sqrt().view(1, -1, 1, 1)

    def scale(self, latents: Tensor) -> Tensor:
        """Return the normalised patches of latents [B, C, h, w]."""
        return (nn.functional.pixel_unshuffle(latents, PATCH) - self.mean) / self.deviation


class Flux2NoisePredictor(nn.Module):
    """A diffusion transformer: x [N, C, h, w], 1000 sigma [N], context [N, L, D] -> eps - x0 [N, C, h, w]."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer, self.dtype = transformer, transformer.dtype
        self.channels: int = transformer.config.in_channels
        self.latent_size = LATENT_SIZE // PATCH

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the velocity, in the network's own precision."""
        count, _, height, width = x.shape
        output = self.transformer(
            hidden_states=x.to(self.dtype).flatten(2).mT,
            timestep=t / 1000,
            encoder_hidden_states=context.to(self.dtype),
            txt_ids=positions(1, 1, context.shape[1], x.device).expand(count, -1, -1),
            img_ids=positions(height, width, 1, x.device).expand(count, -1, -1),
        ).sample
        return output.mT.unflatten(2, (height, width))


def positions(height: int, width: int, length: int, device: torch.device) -> Tensor:
    """Return the places of tokens (time 0, row, column, place in the text): [height width length, 4]."""
    axes = (torch.arange(size, device=device) for size in (1, height, width, length))
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), -1).flatten(0, -2)
