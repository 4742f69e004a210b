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


"""The node ``model.guidance.networks``: precision, speed and memory of UNet and VAE encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nemo_dreamfusion.checkpoints.attention import ATTENTION
from nemo_dreamfusion.checkpoints.block_attention import BLOCKS
from nemo_dreamfusion.modules.guidance.networks.base import AnyNetwork
from nemo_dreamfusion.modules.guidance.networks.fp8 import FP8
from nemo_dreamfusion.modules.guidance.networks.precision import weight_dtype
from nemo_dreamfusion.parts.checks import check_choice, refuse
from nemo_dreamfusion.parts.compilation import check_compile, inductor_options

CUDA_GRAPHS = 'model.guidance.networks.cuda_graphs'
VAE_ATTENTION = (None, BLOCKS)


@dataclass(frozen=True)
class NetworkOptions:
    """How the frozen networks compute. None of it changes a result by more than rounding; that of ``fp8`` is coarse.

    Attributes:
        precision: of the weights, in any of Lightning's spellings; ``${trainer.precision}`` will do. ``auto``: float16 on a
            GPU, bfloat16 on a CPU that multiplies it in hardware, else 32. Latents, score and loss stay float32.
        attention: ``sdpa`` (the kernel that torch chooses), ``flash`` (its flash kernel or an error; half precision on a
            GPU), ``math`` (the plain formula) or ``xformers``; of UNet and VAE encoder, but flash of the UNet alone.
        vae_attention: of the VAE encoder: null (as ``attention``) or ``blocks`` (our own, for its one wide head:
            :mod:`nemo_dreamfusion.checkpoints.block_attention`).
        channels_last: memory layout of the convolutions.
        vae_slicing: encode the images of a batch one after another.
        checkpoint_vae: recompute the VAE encoder's activations in the backward pass instead of keeping them.
        compile: false, true, or the name of a torch.compile backend, for UNet and VAE encoder.
        cuda_graphs: false, true, or ``auto`` (on a single CUDA device what can be): record UNet and VAE encoder once and
            replay them, compiled or not. A score that trains the UNet excludes the UNet's recording, ``checkpoint_vae`` the
            encoder's.
        fp8: compute the denoiser's linear layers in FP8 (:mod:`nemo_dreamfusion.modules.guidance.networks.fp8`). Excludes
            compilation, its recording, and a score that trains the UNet.
    """

    precision: int | str | None = 32
    attention: str = 'sdpa'
    vae_attention: str | None = None
    channels_last: bool = False
    vae_slicing: bool = False
    checkpoint_vae: bool = False
    compile: bool | str | Callable = False
    cuda_graphs: bool | str = False
    fp8: bool = False

    def __post_init__(self) -> None:
        weight_dtype(self.precision, 'cpu')  # a word that is no precision is refused before any work
        check_choice('model.guidance.networks.attention', self.attention, ATTENTION)
        check_choice('model.guidance.networks.vae_attention', self.vae_attention, VAE_ATTENTION)
        check_compile('model.guidance.networks.compile', self.compile)
        check_choice(CUDA_GRAPHS, self.cuda_graphs, (False, True, 'auto'))
        if self.cuda_graphs is True and self.checkpoint_vae:
            refuse(CUDA_GRAPHS, True, 'false or auto where checkpoint_vae computes the encoder a second time')
        check_choice(FP8, self.fp8, (False, True))
        if self.fp8 and self.compile:
            refuse(FP8, True, 'false where the networks are compiled', 'Set model.guidance.networks.compile=false.')
        if self.fp8 and self.cuda_graphs is True:
            refuse(FP8, True, 'false where the UNet is recorded as a CUDA graph', f'Set {CUDA_GRAPHS}=auto.')

    def check_score(self, trains_unet: bool) -> None:
        """Raise ValueError for what cannot be done to a UNet in which a score trains adapters."""
        if trains_unet and self.compile:
            allowed = 'false with a score that switches adapters in the UNet on and off (vsd)'
            refuse(
                'model.guidance.networks.compile', self.compile, allowed, 'Set model.guidance.networks.compile=false.'
            )
        if trains_unet and self.cuda_graphs is True:
            refuse(CUDA_GRAPHS, True, 'false or auto with a score that trains adapters in the UNet (vsd)')
        if trains_unet and self.fp8:
            refuse(FP8, True, 'false with a score that trains adapters in the UNet (vsd)', f'Set {FP8}=false.')

    def records(self, device: torch.device) -> bool:
        """Return whether networks are recorded as CUDA graphs on this device.

        ``auto`` does not record where there are several processes: NCCL's own thread may disturb a recording, and none was
        tried.

        Raises:
            ValueError: where a recording was asked for and the device is no CUDA device.
        """
        if self.cuda_graphs is True and device.type != 'cuda':
            refuse(CUDA_GRAPHS, True, f'false or auto on {device.type}: CUDA graphs are of CUDA devices')
        if self.cuda_graphs == 'auto' and torch.distributed.is_available() and torch.distributed.is_initialized():
            return False
        return bool(self.cuda_graphs) and device.type == 'cuda'

    def apply(self, network: AnyNetwork) -> AnyNetwork:
        """Set memory layout and compilation of a frozen network, and return it."""
        if self.channels_last:
            # torch's stubs know no ``to`` with a memory format alone
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            network.compile(**inductor_options(self.compile))
        return network
