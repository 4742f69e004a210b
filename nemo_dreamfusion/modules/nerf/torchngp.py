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


"""The Torch-NGP field: a multiresolution hash grid and two small MLPs.

Instant NGP (Müller et al. 2022), https://arxiv.org/abs/2201.05989.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.ops.grid_networks import fuses, grid_networks
from nemo_dreamfusion.ops.hash_grid import GridLayout, hash_grid_encode
from nemo_dreamfusion.ops.mlp import make_mlp
from nemo_dreamfusion.parts.build import read_options
from nemo_dreamfusion.parts.checks import check_range
from nemo_dreamfusion.parts.schedules import open_levels


@dataclass(frozen=True)
class HashGridConfig:
    """Options of the hash grid. ``desired_resolution`` counts cells along the box at the finest level."""

    num_levels: int = 16
    level_dim: int = 2
    base_resolution: int = 16
    log2_hashmap_size: int = 19
    desired_resolution: int = 2048
    interpolation: str = 'smoothstep'
    start_level: int | None = None  # levels open at step 0 (None: all); coarse-to-fine as in threestudio
    level_interval: int = 500  # a further level opens every so many steps
    level_start_step: int = 2000  # and not before this step


class TorchNGPField(RadianceField):
    """Hash grid → density MLP and albedo MLP.

    Args:
        encoder_cfg: keys of :class:`HashGridConfig`.
        sigma_net_cfg: keys of :class:`MLPConfig`, for the density.
        features_net_cfg: keys of :class:`MLPConfig`, for the albedo.
        options: those of :class:`RadianceField`.

    Raises:
        ValueError: for an unknown key or a value that is out of range.

    >>> field = TorchNGPField(encoder_cfg={'num_levels': 2, 'log2_hashmap_size': 8}, blob_density=10.0)
    >>> centre, corner = torch.zeros(1, 3), torch.ones(1, 3)
    >>> bool(field.density(centre) > 5.0), bool(field.density(corner) < 0.1)  # the blob
    (True, True)
    >>> bool(field.normals(torch.tensor([[0.3, 0.0, 0.0]]))[0, 0] > 0.99)  # out of the blob
    True
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
        self.grid = read_options('model.nerf.encoder_cfg', HashGridConfig, encoder_cfg)
        _check_grid(self.grid)
        self.layout = GridLayout.make(
            self.grid.num_levels,
            self.grid.level_dim,
            self.grid.log2_hashmap_size,
            self.grid.base_resolution,
            self.grid.desired_resolution,
            self.grid.interpolation,
        )
        self.table = nn.Parameter(torch.empty(self.layout.offsets[-1], self.grid.level_dim).uniform_(-1e-4, 1e-4))
        width = self.grid.num_levels * self.grid.level_dim
        self.sigma_net = make_mlp('model.nerf.sigma_net_cfg', width, 1, sigma_net_cfg)
        self.features_net = make_mlp('model.nerf.features_net_cfg', width, 3, features_net_cfg)
        self._open_levels = self.grid.num_levels
        self._compiled = False

    def compile_networks(self, switch: bool | str | Callable) -> None:
        super().compile_networks(switch)
        self._compiled = bool(switch)

    def set_progress(self, step: int) -> None:
        """Open the levels that are due at ``step``."""
        self._open_levels = open_levels(
            step,
            levels=self.grid.num_levels,
            start_level=self.grid.start_level,
            start_step=self.grid.level_start_step,
            interval=self.grid.level_interval,
        )

    def encode(self, positions: Tensor) -> Tensor:
        """Return the grid's features at world positions: [N, 3] -> [N, num_levels * level_dim]."""
        unit = ((positions + self.bound) / (2 * self.bound)).clamp(0, 1)
        features = hash_grid_encode(unit, self.table, self.layout)
        if self._open_levels == self.grid.num_levels:
            return features
        mask = torch.zeros_like(features[:1])
        mask[:, : self._open_levels * self.grid.level_dim] = 1
        return features * mask

    def raw(self, positions: Tensor, *, with_albedo: bool) -> tuple[Tensor, Tensor | None]:
        networks = [net.layers() for net in (self.sigma_net, self.features_net)[: 2 if with_albedo else 1]]
        if not self._compiled and fuses(positions, self.table, self.layout, networks):
            density, *albedo = grid_networks(
                positions, self.table, self.layout, networks, bound=self.bound, open_levels=self._open_levels
            )
            return density[:, 0], albedo[0] if with_albedo else None
        features = self.encode(positions)
        density = self.sigma_net(features)[:, 0]
        return density, self.features_net(features) if with_albedo else None

    def networks(self) -> list[nn.Module]:
        return [self.sigma_net, self.features_net]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {
            'encoding': [self.table],
            'network': [*self.sigma_net.parameters(), *self.features_net.parameters()],
        }


def _check_grid(grid: HashGridConfig) -> None:
    limits = {
        'num_levels': (1, 32),
        'level_dim': (1, 16),
        'log2_hashmap_size': (4, 24),
        'base_resolution': (1, 2**20),
        'desired_resolution': (grid.base_resolution, 2**20),
        'level_interval': (1, 10**9),
        'level_start_step': (0, 10**9),
    }
    for key, (low, high) in limits.items():
        check_range(f'model.nerf.encoder_cfg.{key}', getattr(grid, key), low, high, integer=True)
    if grid.start_level is not None:
        check_range('model.nerf.encoder_cfg.start_level', grid.start_level, 1, 32, integer=True)
