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


"""The tiny-cuda-nn field: its fused hash grid and MLPs (https://github.com/NVlabs/tiny-cuda-nn), NVIDIA GPUs only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.ops.tiny_cuda_nn import NETWORK, tiny_cuda_nn

ENCODER = {
    'otype': 'HashGrid',
    'n_levels': 16,
    'n_features_per_level': 2,
    'log2_hashmap_size': 19,
    'base_resolution': 16,
    'per_level_scale': 1.3819,
    'interpolation': 'Smoothstep',
}


class TCNNField(RadianceField):
    """Hash grid → density MLP and albedo MLP, in tiny-cuda-nn's kernels.

    A ``.nemo`` of this field holds one flat vector per module (``nerf.encoder.params``, ``nerf.sigma_net.params``,
    ``nerf.features_net.params``); one of ``torchngp`` holds a ``nerf.table`` and the weights and biases of each layer.
    Restoring one as the other is refused.

    Args:
        encoder_cfg: tiny-cuda-nn's JSON options of the encoding.
        sigma_net_cfg: its options of the density network.
        features_net_cfg: its options of the albedo network.
        options: those of :class:`RadianceField`.

    Raises:
        MissingPackageError: without ``tinycudann`` or without a CUDA GPU; it names ``model/nerf=torchngp``.
    """

    def __init__(
        self,
        *,
        encoder_cfg: Mapping | None = None,
        sigma_net_cfg: Mapping | None = None,
        features_net_cfg: Mapping | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        tcnn = tiny_cuda_nn('model/nerf=tcnn', 'model/nerf=torchngp')
        self.encoder = tcnn.Encoding(3, dict(encoder_cfg or ENCODER))
        width = self.encoder.n_output_dims
        self.sigma_net = tcnn.Network(width, 1, dict(sigma_net_cfg or NETWORK))
        self.features_net = tcnn.Network(width, 3, dict(features_net_cfg or NETWORK))

    def raw(self, positions: Tensor, *, with_albedo: bool) -> tuple[Tensor, Tensor | None]:
        features = self.encoder(((positions + self.bound) / (2 * self.bound)).clamp(0, 1))  # half precision
        density = self.sigma_net(features)[:, 0]
        return density, self.features_net(features) if with_albedo else None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        networks = [*self.sigma_net.parameters(), *self.features_net.parameters()]
        return {'encoding': list(self.encoder.parameters()), 'network': networks}
