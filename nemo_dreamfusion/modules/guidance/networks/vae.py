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


"""The VAE: its encoder, which takes renders to latents, and its decoder, which only engines are built of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.attention import set_attention
from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.checkpoints.block_attention import BLOCKS, BlockAttention
from nemo_dreamfusion.modules.guidance.diffusion import random_normal, to_float32
from nemo_dreamfusion.modules.guidance.networks.base import AutoencoderKL, FrozenNetwork, freeze
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions


class ImageEncoder(FrozenNetwork):
    """A VAE's encoder: image [B, 3, H, W] in [-1, 1] -> moments [B, 2 C, h, w] (mean and log variance)."""

    INPUTS = ('image',)
    OUTPUT = 'moments'

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        side = self.vae.config.sample_size
        return {'image': torch.zeros(batch, 3, side, side, device=self._device(), dtype=self.vae.dtype)}

    def forward(self, image: Tensor) -> Tensor:
        """Return the moments [B, 2 C, h, w], not scaled."""
        return self.vae.encode(image.to(self.vae.dtype)).latent_dist.parameters


class ImageDecoder(FrozenNetwork):
    """A VAE's decoder: z [B, C, h, w], not scaled -> image [B, 3, H, W] in [-1, 1]. No guidance decodes."""

    INPUTS = ('z',)

    def __init__(self, vae: AutoencoderKL, latent_size: int) -> None:
        super().__init__()
        self.vae, self.latent_size = vae, latent_size

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        shape = (batch, self.vae.config.latent_channels, self.latent_size, self.latent_size)
        return {'z': torch.zeros(shape, device=self._device(), dtype=self.vae.dtype)}

    def forward(self, z: Tensor) -> Tensor:
        """Return the image [B, 3, H, W]."""
        return self.vae.decode(z.to(self.vae.dtype)).sample


class ImageLatents(nn.Module):
    """From images to scaled latents, in float32 and with a gradient, through an :class:`ImageEncoder`.

    Args:
        encoder: the frozen encoder, on its device.
        channels_last: memory layout of what it is given.

    Attributes:
        channels: C of the latents.
        factor: pixels per latent pixel, along a side.
        scaling, shift: latent = (mean - shift) * scaling, the VAE's own.
        stand_in: called in the encoder's place, where it is set.
    """

    def __init__(self, encoder: ImageEncoder, *, channels_last: bool = False) -> None:
        super().__init__()
        config = encoder.vae.config
        self.encoder, self.channels_last = encoder, channels_last
        self.stand_in: Callable[[Tensor], Tensor] | None = None
        self.channels: int = config.latent_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self.scaling, self.shift = config.get('scaling_factor', 1.0), config.get('shift_factor') or 0.0

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode images [B, H, W, 3] in [0, 1] to latents [B, C, H / factor, W / factor].

        The latent is the posterior's mode, or a sample of it where a generator is given.
        """
        pixels = image.permute(0, 3, 1, 2) * 2 - 1
        if self.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        mean, log_variance = to_float32((self.stand_in or self.encoder)(pixels)).chunk(2, dim=1)
        if generator is not None:
            noise = random_normal(mean.shape, generator, mean.device)
            mean = mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise
        return self.scale(mean)

    def scale(self, latents: Tensor) -> Tensor:
        """Return what the diffusion model was trained on, of latents [B, C, h, w] as the VAE gives them."""
        return (latents - self.shift) * self.scaling


def load_image_latents(
    weights: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    options: NetworkOptions,
    *,
    kind: type[ImageLatents] = ImageLatents,
) -> ImageLatents:
    """Load the frozen VAE encoder on its device. The decoder is dropped: no guidance decodes."""
    vae: AutoencoderKL = weights.vae(dtype)
    vae.decoder = None
    # Its one head is as wide as its channels, 512: beyond every flash kernel.
    set_attention(vae, 'sdpa' if options.attention == 'flash' else options.attention)
    if options.vae_attention == BLOCKS:
        vae.set_attn_processor(BlockAttention())
    if options.vae_slicing:
        vae.enable_slicing()
    if options.checkpoint_vae:
        vae.enable_gradient_checkpointing()
    return kind(options.apply(freeze(ImageEncoder(vae), device)), channels_last=options.channels_last)
