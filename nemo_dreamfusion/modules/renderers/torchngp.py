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


"""Volume rendering with this package's operators (``nemo_dreamfusion.ops``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.renderers.base import DensityFunction
from nemo_dreamfusion.modules.renderers.occupancy import OccupancyGrid
from nemo_dreamfusion.modules.renderers.volume import VolumeRenderer
from nemo_dreamfusion.ops.compositing import accumulate, render_weights
from nemo_dreamfusion.parts.types import Samples


class TorchNGPRaymarchingRenderer(VolumeRenderer):
    """The ``torchngp_raymarching`` back end.

    Args:
        options: those of :class:`VolumeRenderer`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.grid = OccupancyGrid(resolution=self.grid_resolution, bound=self.bound, threshold=self.density_thresh)

    @property
    def occupied(self) -> Tensor:
        return self.grid.occupied

    def refresh(self, density_fn: DensityFunction, step: int, generator: torch.Generator | None) -> None:
        self.grid.update(density_fn, generator)

    def weights(self, density: Tensor, samples: Samples) -> Tensor:
        return render_weights(density, samples)[0]

    def accumulate(self, weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
        return accumulate(weights, values, samples, n_rays)
