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


"""The occupancy grid: which cells of the box may hold something, so that rays skip the empty ones.

Instant NGP (Müller et al. 2022), appendix C, https://arxiv.org/abs/2201.05989.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.renderers.base import DensityFunction


class OccupancyGrid(nn.Module):
    """Decayed maximum of the density seen in each cell of a G^3 grid over [-bound, bound]^3.

    A cell is occupied where that maximum exceeds min(its mean over the grid, threshold). A new grid is fully occupied.

    Args:
        resolution: G.
        bound: half the side of the box, world units.
        threshold: density above which a cell is always occupied, per world unit.
        decay: factor on a cell's maximum at each update.

    >>> grid = OccupancyGrid(resolution=4, bound=1.0, threshold=1.0)
    >>> grid.update(lambda positions: 9.0 * (positions[:, 0] > 0))
    >>> grid.occupied[:, 0, 0].tolist()
    [False, False, True, True]
    """

    CELLS_PER_BATCH = 2**18
    RENAMED = {'memory': 'density_ema'}  # state keys of earlier releases

    density_ema: Tensor  # [G, G, G], indexed [x, y, z]
    occupied: Tensor  # [G, G, G] bool

    def __init__(self, *, resolution: int, bound: float, threshold: float, decay: float = 0.95) -> None:
        super().__init__()
        self.resolution = resolution
        self.bound = bound
        self.threshold = threshold
        self.decay = decay
        self.register_buffer('density_ema', torch.zeros(resolution, resolution, resolution))
        self.register_buffer('occupied', torch.ones(resolution, resolution, resolution, dtype=torch.bool))
        self.register_load_state_dict_pre_hook(_rename_state_keys)

    @torch.no_grad()
    def update(self, density_fn: DensityFunction, generator: torch.Generator | None = None) -> None:
        """Evaluate the density once in each cell and refresh ``density_ema`` and ``occupied``.

        Args:
            density_fn: positions [N, 3] -> density [N].
            generator: draws a random point of each cell; None takes the centres.
        """
        fresh = torch.cat([density_fn(self._points(cells, generator)) for cells in self._cell_batches()])
        self.density_ema.copy_(torch.maximum(self.density_ema * self.decay, fresh.view_as(self.density_ema).float()))
        self.occupied.copy_(self.density_ema > self.density_ema.mean().clamp(max=self.threshold))

    def _cell_batches(self) -> tuple[Tensor, ...]:
        return torch.arange(self.resolution**3, device=self.density_ema.device).split(self.CELLS_PER_BATCH)

    def _points(self, cells: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return one point in each of the cells [N], as positions [N, 3]."""
        g = self.resolution
        index = torch.stack([cells // (g * g), cells // g % g, cells % g], dim=-1)
        within: float | Tensor = 0.5
        if generator is not None:
            within = torch.rand(index.shape, device=cells.device, generator=generator)
        return ((index + within) / g * 2 - 1) * self.bound


def _rename_state_keys(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Read the state of earlier releases: runs before a state dict is loaded into an :class:`OccupancyGrid`."""
    for old, new in OccupancyGrid.RENAMED.items():
        if prefix + old in state_dict:
            state_dict[prefix + new] = state_dict.pop(prefix + old)
