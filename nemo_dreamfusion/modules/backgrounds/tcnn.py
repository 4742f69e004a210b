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


"""The environment as a tiny-cuda-nn network of the viewing direction, NVIDIA GPUs only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.ops.tiny_cuda_nn import NETWORK, tiny_cuda_nn
from nemo_dreamfusion.parts.types import RayBundle

ENCODER = {'otype': 'Frequency', 'n_frequencies': 6}


class TCNNBackground(Background):
    """Frequency-encoded direction -> MLP -> colour, in tiny-cuda-nn's kernels. The same in training and evaluation.

    A ``.nemo`` holds its weights as one flat vector, ``background.net.params``; that of ``torchngp`` holds the layers.

    Args:
        encoder_cfg: tiny-cuda-nn's JSON options of the encoding.
        net_cfg: its options of the network, whose outputs go through a sigmoid here.

    Raises:
        MissingPackageError: without ``tinycudann`` or without a CUDA GPU; it names ``model/background=torchngp``.
    """

    def __init__(self, *, encoder_cfg: Mapping | None = None, net_cfg: Mapping | None = None) -> None:
        super().__init__()
        tcnn = tiny_cuda_nn('model/background=tcnn', 'model/background=torchngp')
        net = {**NETWORK, 'n_neurons': 32, 'n_hidden_layers': 1} if net_cfg is None else dict(net_cfg)
        self.net = tcnn.NetworkWithInputEncoding(3, 3, dict(encoder_cfg or ENCODER), net)

    def forward(self, rays: RayBundle, generator: torch.Generator | None = None) -> Tensor:
        return torch.sigmoid(
            self.net((rays.directions + 1) / 2).float()
        )  # directions in [0, 1], half precision inside
