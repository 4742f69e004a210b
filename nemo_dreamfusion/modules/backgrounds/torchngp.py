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

"""The environment as a small MLP of the viewing direction, as in torch-ngp and NeMo."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.ops.mlp import make_mlp
from nemo_dreamfusion.parts.checks import check_range
from nemo_dreamfusion.parts.types import RayBundle


class TorchNGPBackground(Background):
    """Frequency-encoded direction -> MLP -> colour. The same in training and evaluation.

    Args:
        encoder_multi_res: how many frequencies, each twice the one before.
        net_cfg: keys of :class:`MLPConfig`; its defaults here are 2 layers of width 32.

    Raises:
        ValueError: for an unknown key or a value that is out of range.

    >>> rays = RayBundle(torch.zeros(2, 3), torch.eye(3)[:2], image_shape=(1, 1, 2))
    >>> TorchNGPBackground()(rays).shape
    torch.Size([2, 3])
    """

    frequencies: Tensor  # [encoder_multi_res]

    def __init__(self, *, encoder_multi_res: int = 6, net_cfg: Mapping | None = None) -> None:
        super().__init__()
        check_range('model.background.encoder_multi_res', encoder_multi_res, 1, 16, integer=True)
        frequencies = math.pi * 2.0 ** torch.arange(encoder_multi_res)
        self.register_buffer('frequencies', frequencies, persistent=False)
        net_cfg = {'num_hidden_dims': 32, 'num_layers': 2, **(net_cfg or {})}
        self.net = make_mlp('model.background.net_cfg', 6 * encoder_multi_res, 3, net_cfg)

    def encode(self, directions: Tensor) -> Tensor:
        """Return sines and cosines of each coordinate: [R, 3] unit -> [R, 6 * encoder_multi_res].

        The coordinates are first mapped from [-1, 1] to [0, 1]: over [-1, 1] the sine and the cosine of pi * x are the
        same at both ends, so that opposite directions along an axis could not be told apart.
        """
        unit = (directions + 1) / 2
        phase = (unit[:, :, None] * self.frequencies).flatten(1)
        return torch.cat([phase.sin(), phase.cos()], -1)

    def forward(self, rays: RayBundle, generator: torch.Generator | None = None) -> Tensor:
        return torch.sigmoid(self.net(self.encode(rays.directions)).float())
