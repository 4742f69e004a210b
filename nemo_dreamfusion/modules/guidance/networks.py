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

"""The networks of a Stable Diffusion, as the guidance calls them: plain tensors in, one plain tensor out.

Each follows NeMo's Exportable, with the names of NeMo's own export: ``network.export('unet.onnx')``; only the batch is
dynamic. (Exporting leaves a network frozen and in eval mode, which is how they are kept here.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from nemo.core.classes.exportable import Exportable
from nemo.core.neural_types import NeuralType, VoidType
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.checkpoints.diffusers_format import ATTENTION, set_attention
from nemo_dreamfusion.modules.guidance.diffusion import copied, random_normal
from nemo_dreamfusion.parts.checks import check_choice, refuse
from nemo_dreamfusion.parts.compilation import inductor_options


class FrozenNetwork(nn.Module, Exportable):
    """What they share for export: names in the order of ``forward``, batch first."""

    INPUTS: tuple[str, ...] = ()
    OUTPUT = 'logits'

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {name: NeuralType(('B', *('ANY',) * (x.ndim - 1)), VoidType()) for name, x in self._examples().items()}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {self.OUTPUT: NeuralType(('B', 'ANY', 'ANY', 'ANY')[: self._output_dims()], VoidType())}

    def dynamic_shapes_for_export(self, use_dynamo: bool = False) -> dict[str, dict[int, str]]:
        """The batch, and nothing else, may change after export."""
        return {name: {0: 'B'} for name in (*self.INPUTS, self.OUTPUT)}

    def input_example(self, max_batch: int = 2) -> tuple[Tensor, ...]:
        """Inputs of the network's own sizes, on its device."""
        return tuple(self._examples(max_batch).values())

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        raise NotImplementedError

    def _output_dims(self) -> int:
        return 4

    def _device(self) -> torch.device:
        return next(self.parameters()).device


class NoisePredictor(FrozenNetwork):
    """A UNet: x [N, C, h, w], t [N], context [N, L, D] -> output [N, C, h, w] (a learned variance is left out).

    Args:
        unet: a diffusers UNet2DConditionModel.
        tokens: L of an exported UNet; torch takes any.
    """

    INPUTS = ('x', 't', 'context')

    def __init__(self, unet: nn.Module, tokens: int = 77) -> None:
        super().__init__()
        check_supported(unet)
        self.unet, self.dtype, self.tokens = unet, unet.dtype, tokens
        self.channels: int = unet.config.in_channels
        size = unet.config.sample_size
        self.latent_size = int(size if isinstance(size, int) else max(size))

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        config, here = self.unet.config, {'device': self._device(), 'dtype': self.dtype}
        return {
            'x': torch.zeros(batch, self.channels, self.latent_size, self.latent_size, **here),
            't': torch.zeros(batch, dtype=torch.int32, device=here['device']),
            'context': torch.zeros(batch, self.tokens, config.cross_attention_dim, **here),
        }

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """x [N, C, h, w], t [N], context [N, L, D] -> [N, C, h, w], in the UNet's own precision."""
        output = self.unet(x.to(self.dtype), t, encoder_hidden_states=context.to(self.dtype)).sample
        return output[:, : self.channels]


class ImageEncoder(FrozenNetwork):
    """A VAE's encoder: image [B, 3, H, W] in [-1, 1] -> moments [B, 2 C, h, w] (mean and log variance)."""

    INPUTS = ('image',)
    OUTPUT = 'moments'

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        side = self.vae.config.sample_size
        return {'image': torch.zeros(batch, 3, side, side, device=self._device(), dtype=self.vae.dtype)}

    def forward(self, image: Tensor) -> Tensor:
        """image [B, 3, H, W] in [-1, 1] -> moments [B, 2 C, h, w], not scaled."""
        return self.vae.encode(image.to(self.vae.dtype)).latent_dist.parameters


class ImageDecoder(FrozenNetwork):
    """A VAE's decoder: z [B, C, h, w], not scaled -> image [B, 3, H, W] in [-1, 1]. For engines; no guidance decodes."""

    INPUTS = ('z',)

    def __init__(self, vae: nn.Module, latent_size: int) -> None:
        super().__init__()
        self.vae, self.latent_size = vae, latent_size

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        shape = (batch, self.vae.config.latent_channels, self.latent_size, self.latent_size)
        return {'z': torch.zeros(shape, device=self._device(), dtype=self.vae.dtype)}

    def forward(self, z: Tensor) -> Tensor:
        """z [B, C, h, w], not scaled -> image [B, 3, H, W]."""
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
        self.channels = config.latent_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.scaling, self.shift = config.scaling_factor, config.get('shift_factor') or 0.0

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images [B, H, W, 3] in [0, 1] to latents [B, C, H / factor, W / factor].

        The posterior's mode, or a sample of it where a generator is given.
        """
        pixels = image.permute(0, 3, 1, 2) * 2 - 1
        if self.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        mean, log_variance = copied((self.stand_in or self.encoder)(pixels)).chunk(2, dim=1)
        if generator is not None:
            noise = random_normal(mean.shape, generator, mean.device)
            mean = mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise
        return (mean - self.shift) * self.scaling


class TextEncoder(FrozenNetwork):
    """A CLIP text model: tokens [n, L] -> embeddings [n, L', D], padded with zeros to ``context_length`` where it is set."""

    INPUTS = ('tokens',)

    def __init__(self, model: nn.Module, context_length: int | None = None) -> None:
        super().__init__()
        self.model, self.context_length = model, context_length

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        length = self.model.config.max_position_embeddings
        return {'tokens': torch.zeros(batch, length, dtype=torch.int32, device=self._device())}

    def _output_dims(self) -> int:
        return 3

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [n, L] -> embeddings [n, L', D], L' = max(L, context_length)."""
        embeddings = self.model(input_ids=tokens).last_hidden_state
        lacking = (self.context_length or 0) - embeddings.shape[1]
        return nn.functional.pad(embeddings, (0, 0, 0, lacking)) if lacking > 0 else embeddings


def check_supported(unet: nn.Module) -> None:
    """ValueError for what is not a text-to-image Stable Diffusion 1.x or 2.x."""
    for key in ('addition_embed_type', 'class_embed_type', 'encoder_hid_dim_type', 'time_cond_proj_dim'):
        if unet.config.get(key) is not None:
            raise ValueError(
                f'The UNet has {key}={unet.config[key]!r}: only Stable Diffusion 1.x and 2.x are supported.'
            )


def check_channels(unet_channels: int, latent_channels: int) -> None:
    """ValueError for a UNet that wants more than the VAE's latents."""
    if unet_channels != latent_channels:
        raise ValueError(
            f'The UNet takes {unet_channels} channels and the VAE gives {latent_channels}: inpainting, depth and '
            'upscaling models cannot guide. Choose a text-to-image model.'
        )


def frozen(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network in eval mode on the device, without parameter gradients."""
    return network.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class Switches:
    """Memory and speed. The options of StableDiffusionGuidance of the same names."""

    attention: str = 'sdpa'
    channels_last: bool = False
    vae_slicing: bool = False
    checkpoint_vae: bool = False
    compile: bool | str | Callable = False

    def __post_init__(self) -> None:
        check_choice('model.guidance.attention', self.attention, ATTENTION)

    def apply(self, network: nn.Module) -> nn.Module:
        """Memory layout and compilation of a frozen network."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.compile:
            network.compile(**inductor_options(self.compile))
        return network


def load_noise_predictor(
    weights: Checkpoint, dtype: torch.dtype, device: torch.device, switches: Switches
) -> NoisePredictor:
    """The frozen UNet on its device."""
    if switches.attention == 'flash' and device.type == 'cuda' and dtype not in (torch.float16, torch.bfloat16):
        allowed = f'sdpa where the weights are {dtype}: on a GPU the flash kernel takes half precision only'
        refuse('model.guidance.attention', 'flash', allowed, 'Set model.guidance.precision=16.')
    unet = weights.unet(dtype)
    set_attention(unet, switches.attention)
    return switches.apply(frozen(NoisePredictor(unet), device))


def load_image_latents(
    weights: Checkpoint, dtype: torch.dtype, device: torch.device, switches: Switches
) -> ImageLatents:
    """The frozen VAE encoder on its device. The decoder is dropped: nothing here decodes."""
    vae = weights.vae(dtype)
    vae.decoder = None
    # its one head is as wide as its channels, 512: beyond every flash kernel
    set_attention(vae, 'sdpa' if switches.attention == 'flash' else switches.attention)
    if switches.vae_slicing:
        vae.enable_slicing()
    if switches.checkpoint_vae:
        vae.enable_gradient_checkpointing()
    return ImageLatents(switches.apply(frozen(ImageEncoder(vae), device)), channels_last=switches.channels_last)
