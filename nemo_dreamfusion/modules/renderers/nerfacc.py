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


"""Volume rendering with NerfAcc (Li et al., 2023): its occupancy estimator and its weights.

On a GPU NerfAcc samples, prunes and sums in its packed CUDA kernels. Those kernels need CUDA, so on a CPU the rays are
marched by ``nemo_dreamfusion.ops`` through NerfAcc's own grid, and the sums go through NerfAcc's batched functions,
which are plain torch: each ray's samples are laid out in one row of [R, S], padded with empty intervals.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.renderers.base import DensityFunction
from nemo_dreamfusion.modules.renderers.volume import VolumeRenderer
from nemo_dreamfusion.parts.optional import require
from nemo_dreamfusion.parts.types import Samples


class NerfAccRenderer(VolumeRenderer):
    """The ``nerfacc`` back end.

    Args:
        options: those of :class:`VolumeRenderer`.

    Raises:
        ImportError: when nerfacc is not installed.
    """

    TAKES_PADDED = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.__dict__['nerfacc'] = require(
            'nerfacc', 'nerfacc', 'model/renderer=nerfacc renders with it', 'model/renderer=torchngp_raymarching'
        )
        box = [-self.bound] * 3 + [self.bound] * 3
        self.estimator = self.nerfacc.OccGridEstimator(roi_aabb=box, resolution=self.grid_resolution, levels=1)
        self.estimator.binaries.fill_(True)  # nothing is known yet: skip nothing

    def occupied(self) -> Tensor:
        """The estimator's only level."""
        return self.estimator.binaries[0]

    def refresh(self, density: DensityFunction, step: int, generator: torch.Generator | None) -> None:
        """NerfAcc's moving maximum; its draws from torch's global generator are seeded from ours and undone."""
        devices = [self.estimator.binaries.device] if self.estimator.binaries.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            if generator is not None:
                torch.manual_seed(generator.initial_seed() + step)
            self.estimator.train()
            self.estimator._update(step, density, occ_thre=self.density_thresh)

    def march(self, origins: Tensor, directions: Tensor, density: DensityFunction, jitter: Tensor | None) -> Samples:
        """On a GPU NerfAcc's own sampling; on a CPU ours, through its grid."""
        if not origins.is_cuda:
            return super().march(origins, directions, density, jitter)

        def sigma(starts: Tensor, ends: Tensor, ray_indices: Tensor) -> Tensor:
            return density(origins[ray_indices] + (starts + ends)[:, None] / 2 * directions[ray_indices])

        nearest = None if jitter is None else jitter * self.step_size
        ray_indices, starts, ends = self.estimator.sampling(
            origins,
            directions,
            sigma_fn=sigma if self.transmittance_thresh > 0 else None,
            render_step_size=self.step_size,
            early_stop_eps=self.transmittance_thresh,
            t_min=nearest,
        )
        offsets = torch.searchsorted(ray_indices, torch.arange(len(origins) + 1, device=ray_indices.device))
        return Samples(ray_indices=ray_indices, starts=starts, ends=ends, offsets=offsets)

    def weights(self, density: Tensor, samples: Samples) -> Tensor:
        """NerfAcc's weights: [N] -> [N]."""
        if density.is_cuda:
            return self.nerfacc.render_weight_from_density(
                samples.starts, samples.ends, density, ray_indices=samples.ray_indices, n_rays=len(samples.offsets) - 1
            )[0]
        starts, ends, sigmas = (_rows(x, samples) for x in (samples.starts, samples.ends, density))
        return _packed(self.nerfacc.render_weight_from_density(starts, ends, sigmas)[0], samples)

    def accumulate(self, weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
        """NerfAcc's sums along rays."""
        return self.nerfacc.accumulate_along_rays(weights, values, ray_indices=samples.ray_indices, n_rays=n_rays)


def _places(samples: Samples) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Row and column of each packed sample in the padded layout, and that layout's shape (R, S)."""
    column = torch.arange(len(samples), device=samples.starts.device) - samples.offsets[samples.ray_indices]
    longest = int((samples.offsets[1:] - samples.offsets[:-1]).max()) if len(samples) else 1
    return samples.ray_indices, column, (len(samples.offsets) - 1, longest)


def _rows(values: Tensor, samples: Samples) -> Tensor:
    """Packed [N] to padded [R, S], zeros where a ray has fewer samples (intervals of length 0, which weigh nothing)."""
    row, column, shape = _places(samples)
    return values.new_zeros(shape).index_put((row, column), values)


def _packed(rows: Tensor, samples: Samples) -> Tensor:
    """Padded [R, S] back to packed [N]."""
    row, column, _ = _places(samples)
    return rows[row, column]
