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


"""Volume rendering with NerfAcc (Li et al. 2023, https://arxiv.org/abs/2305.04966): its occupancy grid and its weights.

On a GPU NerfAcc samples, prunes and sums in its packed CUDA kernels. On a CPU, where these do not run, the rays are
marched by ``nemo_dreamfusion.ops`` through NerfAcc's grid, and the weights come from NerfAcc's batched functions, which
are plain torch: the samples of a ray are one row of [R, S], filled up with intervals of length 0.
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
        MissingPackageError: without nerfacc; it names ``model/renderer=torchngp_raymarching``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.nerfacc = require(
            'nerfacc', 'nerfacc', 'model/renderer=nerfacc renders with it', 'model/renderer=torchngp_raymarching'
        )
        box = [-self.bound] * 3 + [self.bound] * 3
        self.estimator = self.nerfacc.OccGridEstimator(roi_aabb=box, resolution=self.grid_resolution, levels=1)
        self.estimator.binaries.fill_(True)  # nothing is known yet: skip nothing

    @property
    def occupied(self) -> Tensor:
        return self.estimator.binaries[0]

    def refresh(self, density_fn: DensityFunction, step: int, generator: torch.Generator | None) -> None:
        """Update NerfAcc's moving maximum; torch's global generator, from which it draws, is restored."""
        devices = [self.estimator.binaries.device] if self.estimator.binaries.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            if generator is not None:
                torch.manual_seed(generator.initial_seed() + step)
            self.estimator.train()
            self.estimator._update(step, density_fn, occ_thre=self.density_thresh)

    def sample(
        self,
        origins: Tensor,
        directions: Tensor,
        density_fn: DensityFunction,
        jitter: Tensor | None,
        *,
        leave_hidden: bool = False,
    ) -> Samples:
        """Return NerfAcc's own samples on a GPU; on a CPU those of this package, through NerfAcc's grid."""
        if not origins.is_cuda:
            return super().sample(origins, directions, density_fn, jitter, leave_hidden=leave_hidden)

        def sigma(starts: Tensor, ends: Tensor, ray_indices: Tensor) -> Tensor:
            return density_fn(origins[ray_indices] + (starts + ends)[:, None] / 2 * directions[ray_indices])

        ray_indices, starts, ends = self.estimator.sampling(
            origins,
            directions,
            sigma_fn=sigma if self.transmittance_thresh > 0 else None,
            render_step_size=self.step_size,
            early_stop_eps=self.transmittance_thresh,
            t_min=None if jitter is None else jitter * self.step_size,
        )
        offsets = torch.searchsorted(ray_indices, torch.arange(len(origins) + 1, device=ray_indices.device))
        return Samples(ray_indices=ray_indices, starts=starts, ends=ends, offsets=offsets)

    def weights(self, density: Tensor, samples: Samples) -> Tensor:
        if density.is_cuda:
            return self.nerfacc.render_weight_from_density(
                samples.starts, samples.ends, density, ray_indices=samples.ray_indices, n_rays=len(samples.offsets) - 1
            )[0]
        starts, ends, sigmas = (_to_rows(x, samples) for x in (samples.starts, samples.ends, density))
        return _to_packed(self.nerfacc.render_weight_from_density(starts, ends, sigmas)[0], samples)

    def accumulate(self, weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
        return self.nerfacc.accumulate_along_rays(weights, values, ray_indices=samples.ray_indices, n_rays=n_rays)


def _locate(samples: Samples) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return row and column of each packed sample in the layout of rows, and that layout's shape (R, S)."""
    column = torch.arange(len(samples), device=samples.starts.device) - samples.offsets[samples.ray_indices]
    longest = int((samples.offsets[1:] - samples.offsets[:-1]).max()) if len(samples) else 1
    return samples.ray_indices, column, (len(samples.offsets) - 1, longest)


def _to_rows(values: Tensor, samples: Samples) -> Tensor:
    """Lay out packed values [N] in rows [R, S], zeros where a ray has fewer samples (intervals of length 0)."""
    row, column, shape = _locate(samples)
    return values.new_zeros(shape).index_put((row, column), values)


def _to_packed(rows: Tensor, samples: Samples) -> Tensor:
    """Pack the values of rows [R, S] again: [N]."""
    row, column, _ = _locate(samples)
    return rows[row, column]
