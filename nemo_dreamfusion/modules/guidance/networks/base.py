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


"""What the frozen networks share: export through NeMo's Exportable, and how they are frozen.

``network.export('unet.onnx')`` uses the names of NeMo's own export; only the batch is dynamic. Exporting leaves a network
frozen and in eval mode, which is how it is kept here anyway.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import torch
from nemo.core.classes.exportable import Exportable
from nemo.core.neural_types import NeuralType, VoidType
from torch import Tensor, nn

AnyNetwork = TypeVar('AnyNetwork', bound=nn.Module)

# Classes of diffusers and transformers, which are imported where they are loaded. Their lazy imports hide their types.
UNet2DConditionModel = Any
AutoencoderKL = Any
CLIPTextModel = Any


class UNetLike(Protocol):
    """A UNet, or an engine that stands for one: x [N, C, h, w], t [N], context [N, L, D] -> output [N, C, h, w].

    Attributes:
        channels: C.
        latent_size: h and w.
    """

    channels: int
    latent_size: int

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, /) -> Tensor:
        """Predict what the diffusion model predicts (noise, v or x0)."""


class FrozenNetwork(nn.Module, Exportable):
    """A network with named inputs, batch first, and one output.

    Attributes:
        INPUTS: names in the order of ``forward``.
        OUTPUT: name of the output.
        OUTPUT_DIMS: number of its dimensions, batch included.
    """

    INPUTS: tuple[str, ...] = ()
    OUTPUT = 'logits'
    OUTPUT_DIMS = 4

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {name: NeuralType(('B', *('ANY',) * (x.ndim - 1)), VoidType()) for name, x in self._examples().items()}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        return {self.OUTPUT: NeuralType(('B', 'ANY', 'ANY', 'ANY')[: self.OUTPUT_DIMS], VoidType())}

    def dynamic_shapes_for_export(self, use_dynamo: bool = False) -> dict[str, dict[int, str]]:
        """Say what may change after export: the batch, and nothing else."""
        return {name: {0: 'B'} for name in (*self.INPUTS, self.OUTPUT)}

    def input_example(self, max_batch: int = 2) -> tuple[Tensor, ...]:
        """Return inputs of the network's own sizes, on its device."""
        return tuple(self._examples(max_batch).values())

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        raise NotImplementedError

    def _device(self) -> torch.device:
        return next(self.parameters()).device


def freeze(network: AnyNetwork, device: torch.device | str) -> AnyNetwork:
    """Move the network to the device, in eval mode and without parameter gradients, and return it.

    >>> layer = freeze(nn.Linear(2, 2), 'cpu')
    >>> layer.training, layer.weight.requires_grad
    (False, False)
    """
    return network.to(device).eval().requires_grad_(False)
