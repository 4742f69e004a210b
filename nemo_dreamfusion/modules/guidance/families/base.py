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

"""What a family of diffusion models has of its own: texts, conditions, latents, times. Scores know nothing of it.

All that a network is conditioned on, a pooled text or a camera as well as the tokens, travels as one tensor, the context
[N, L, D], so that mixing by view, guidance, Perp-Neg and recording work on every family alike: a vector is laid into further
rows behind the tokens (:func:`append_vector`), and the family's network takes it out again (:func:`split_vector`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.attention import set_attention
from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.modules.guidance.diffusion import NoiseSchedule
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning
from nemo_dreamfusion.modules.guidance.networks.base import UNetLike, freeze
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.vae import ImageLatents, load_image_latents
from nemo_dreamfusion.modules.guidance.prompts import check_prompts, warn_of_dropped_words
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import CameraBatch, PromptSet

TEXTS_AT_ONCE = 8  # an engine's plan of a text encoder takes no more


class Family:
    """A family of models, over the files of one of them. Loads nothing before it is asked to.

    Args:
        weights: the files.

    Attributes:
        title: the family, in words.
        views: images of one object that the network sees together; a batch is a multiple of them.
        trains_unet: whether a score may train adapters in its network.
        recordable: whether its network can be replayed as a CUDA graph.
        attention: the kinds of attention that its network can compute.
    """

    title = 'Stable Diffusion'
    views = 1
    trains_unet = False
    recordable = True
    attention: tuple[str, ...] = ('sdpa',)

    def __init__(self, weights: Checkpoint) -> None:
        self.weights: Any = weights

    def check_prompts(self, prompts: PromptSet) -> None:
        """Raise ValueError for texts that the model cannot read. Loads a tokenizer at most."""
        check_prompts(self.weights.tokenizer(), prompts)

    def check_networks(self, options: NetworkOptions) -> None:
        """Raise ValueError for a way of computing that the family's network does not know."""
        if options.attention not in self.attention:
            allowed = f'{" or ".join(self.attention)} with {self.title}'
            advice = 'Set model.guidance.networks.attention=sdpa.'
            refuse('model.guidance.networks.attention', options.attention, allowed, advice)

    def encode(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the context of each text: [n, L, D], float32, on the device. Text encoders are freed again."""
        raise NotImplementedError

    def warn_of_dropped_words(self, texts: Sequence[str]) -> None:
        """Warn of texts whose end the text encoders do not see."""
        warn_of_dropped_words(self.weights.tokenizer(), texts)

    def text_identity(self) -> Any:
        """Return what names the text encoders, as plain data; None for a source of which that is not known."""
        return self.weights.text_identity() if hasattr(self.weights, 'text_identity') else None

    def check_cameras(self, cameras: CameraBatch) -> None:
        """Raise ValueError for cameras of one step that the network cannot look from together."""

    def condition(self, conditioning: Conditioning, cameras: CameraBatch) -> Conditioning:
        """Return the conditioning with what the network must know of the cameras; as it is, where that is nothing."""
        return conditioning

    def load_schedule(self, latent_size: int) -> NoiseSchedule:
        """Return the noise schedule, on the CPU, for latents of this side."""
        tokens = self.image_tokens(latent_size)
        return NoiseSchedule.from_config(self.weights.scheduler_config(), image_tokens=tokens)

    def image_tokens(self, latent_size: int) -> int:
        """Return how many patches a transformer makes of latents of this side: of 2 x 2, as most do."""
        return (latent_size // 2) ** 2

    def load_noise_predictor(self, dtype: torch.dtype, device: torch.device, options: NetworkOptions) -> UNetLike:
        """Load the frozen network on its device."""
        network = self.weights.unet(dtype) if self._has_unet() else self.weights.transformer(dtype)
        if len(self.attention) > 1:
            set_attention(network, options.attention)
        return options.apply(freeze(self.predictor(network), device))

    def _has_unet(self) -> bool:
        return self.weights.family.denoiser == 'unet'

    def predictor(self, network: nn.Module) -> Any:
        """Return the network, however empty, as a predictor of noise: a module that is called as :class:`UNetLike` says."""
        raise NotImplementedError

    def load_image_latents(self, dtype: torch.dtype, device: torch.device, options: NetworkOptions) -> ImageLatents:
        """Load the frozen VAE's encoder on its device."""
        return load_image_latents(self.weights, self.vae_dtype(dtype), device, options)

    # Sizes, by the configurations alone

    def vae_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the precision of the VAE where the network has ``dtype``."""
        return dtype

    def text_dtype(self, part: str, dtype: torch.dtype) -> torch.dtype:
        """Return the precision of a text encoder where the network has ``dtype``."""
        return dtype

    def factor(self) -> int:
        """Return the pixels of a latent pixel, along a side."""
        return 2 ** (len(self.weights.config('vae')['block_out_channels']) - 1)

    def context_shape(self) -> tuple[int, int]:
        """Return [L, D] of a context."""
        raise NotImplementedError


@contextmanager
def loaded(model: nn.Module, device: torch.device) -> Iterator[Any]:
    """Yield a network frozen on the device, and give its memory back at the end."""
    try:
        yield freeze(model, device)
    finally:
        model.to('meta')
        if device.type == 'cuda':
            torch.cuda.empty_cache()


def in_parts(texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
    """Encode some texts at a time: n texts -> [n, ...], float32."""
    parts = [texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)]
    with torch.no_grad():
        return torch.cat([encode(part).float() for part in parts])


def append_vector(tokens: Tensor, vector: Tensor) -> Tensor:
    """Lay a vector [n, P] into rows of zeros behind the tokens [n, L, D]: [n, L + ceil(P / D), D].

    >>> append_vector(torch.zeros(1, 1, 2), torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[[0., 0.],
             [1., 2.],
             [3., 0.]]])
    """
    width = tokens.shape[-1]
    rows = rows_for(vector.shape[-1], width)
    padded = nn.functional.pad(vector, (0, rows * width - vector.shape[-1]))
    return torch.cat([tokens, padded.view(-1, rows, width)], 1)


def rows_for(length: int, width: int) -> int:
    """Return how many rows of a context a vector takes."""
    return -(-length // width)


def split_vector(context: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the tokens [n, L, D] and the vector [n, length] that :func:`append_vector` made one of."""
    rows = rows_for(length, context.shape[-1])
    return context[:, :-rows], context[:, -rows:].flatten(1)[:, :length]
