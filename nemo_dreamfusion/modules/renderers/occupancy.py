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


"""A coarse memory of where the density is, so that rays skip empty space (Instant NGP, appendix C)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.renderers.base import DensityFunction


class OccupancyGrid(nn.Module):
    """Decayed maximum of the density seen in each cell of a G^3 grid over [-bound, bound]^3, and which cells count.

    A cell is occupied where its remembered density exceeds min(mean over the grid, threshold).

    Args:
        resolution: G.
        bound: half the side of the box.
        threshold: density above which a cell always counts.
        decay: what a cell keeps of its memory at each update.
    """

    CELLS_PER_BATCH = 2**18

    def __init__(self, *, resolution: int, bound: float, threshold: float, decay: float = 0.95) -> None:
        super().__init__()
        self.resolution = resolution
        self.bound = bound
        self.threshold = threshold
        self.decay = decay
        self.register_buffer('memory', torch.zeros(resolution, resolution, resolution))
        self.register_buffer('occupied', torch.ones(resolution, resolution, resolution, dtype=torch.bool))

    @torch.no_grad()
    def update(self, density: DensityFunction, generator: torch.Generator | None = None) -> None:
        """Looks at one point of each cell (a random one when there is a generator, else the centre)."""
        fresh = torch.cat([density(self._points(cells, generator)) for cells in self._all_cells()])
        self.memory.copy_(torch.maximum(self.memory * self.decay, fresh.view_as(self.memory).float()))
        self.occupied.copy_(self.memory > self.memory.mean().clamp(max=self.threshold))

    def _all_cells(self) -> tuple[Tensor, ...]:
        return torch.arange(self.resolution**3, device=self.memory.device).split(self.CELLS_PER_BATCH)

    def _points(self, cells: Tensor, generator: torch.Generator | None) -> Tensor:
        g = self.resolution
        index = torch.stack([cells // (g * g), cells // g % g, cells % g], dim=-1)
        within = 0.5
        if generator is not None:
            within = torch.rand(index.shape, device=cells.device, generator=generator)
        return ((index + within) / g * 2 - 1) * self.bound
