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


"""The UNet: x_t, t and a text give what the diffusion model predicts."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.checkpoints.attention import set_attention
from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.modules.guidance.networks.base import FrozenNetwork, UNet2DConditionModel, freeze
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.parts.checks import refuse


class NoisePredictor(FrozenNetwork):
    """A UNet: x [N, C, h, w], t [N], context [N, L, D] -> output [N, C, h, w] (a learned variance is left out).

    Args:
        unet: the network, in any precision.
        tokens: L of an exported UNet; torch takes any.

    Attributes:
        channels: C.
        latent_size: h and w.
    """

    INPUTS = ('x', 't', 'context')

    def __init__(self, unet: UNet2DConditionModel, tokens: int = 77) -> None:
        super().__init__()
        self.unet, self.dtype, self.tokens = unet, unet.dtype, tokens
        self.channels: int = unet.config.in_channels
        size = unet.config.sample_size
        self.latent_size = int(size if isinstance(size, int) else max(size))

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        size, device, width = self.latent_size, self._device(), self.unet.config.cross_attention_dim
        width = width if isinstance(width, int) else width[0]  # a list names the same for each level
        return {
            'x': torch.zeros(batch, self.channels, size, size, device=device, dtype=self.dtype),
            't': torch.zeros(batch, dtype=torch.int32, device=device),
            'context': torch.zeros(batch, self.tokens, width, device=device, dtype=self.dtype),
        }

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the UNet's output [N, C, h, w], in its own precision."""
        output = self.unet(x.to(self.dtype), t, encoder_hidden_states=context.to(self.dtype)).sample
        return output[:, : self.channels]


def check_channels(unet_channels: int, latent_channels: int) -> None:
    """Raise ValueError for a UNet that wants more channels than the VAE's latents have."""
    if unet_channels != latent_channels:
        raise ValueError(
            f'The UNet takes {unet_channels} channels and the VAE gives {latent_channels}: inpainting, depth and '
            'upscaling models cannot guide. Choose a text-to-image model.'
        )


def load_noise_predictor(
    weights: Checkpoint, dtype: torch.dtype, device: torch.device, options: NetworkOptions
) -> NoisePredictor:
    """Load the frozen UNet on its device.

    Raises:
        ValueError: for flash attention in single precision on a GPU, and for a UNet that is not supported.
    """
    if options.attention == 'flash' and device.type == 'cuda' and dtype not in (torch.float16, torch.bfloat16):
        allowed = f'sdpa where the weights are {dtype}: on a GPU the flash kernel takes half precision only'
        refuse('model.guidance.networks.attention', 'flash', allowed, 'Set model.guidance.networks.precision=16.')
    unet = weights.unet(dtype)
    set_attention(unet, options.attention)
    return options.apply(freeze(NoisePredictor(unet), device))
