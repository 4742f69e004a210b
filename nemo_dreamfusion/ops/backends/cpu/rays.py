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

"""What samples have of their rays, on the CPU: kernels of ``csrc/marching.cpp``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32
from nemo_dreamfusion.parts.types import Samples


def values_of_rays(values: Tensor, samples: Samples) -> Tensor:
    to = empty_float32(len(samples), values.shape[1])
    call('values_of_rays', values, samples.offsets, *values.shape, to)
    return to


def positions_on_rays(origins: Tensor, directions: Tensor, distances: Tensor, samples: Samples) -> Tensor:
    positions = empty_float32(len(samples), 3)
    call('positions_on_rays', origins, directions, distances, samples.offsets, len(origins), positions)
    return positions


def density_front_to_back(
    origins: Tensor,
    directions: Tensor,
    samples: Samples,
    density_fn: Callable[[Tensor], Tensor],
    limit: float,
    slab: int,
) -> Tensor:
    """Return the density that light reaches; ``limit`` is the optical depth of spent light."""
    origins, directions, rays = origins.contiguous(), directions.contiguous(), len(origins)
    starts, ends, offsets = (t.contiguous() for t in (samples.starts, samples.ends, samples.offsets))
    density, depth = torch.full_like(starts, torch.finfo(starts.dtype).max), starts.new_zeros(rays)
    places = torch.empty_like(offsets)
    for first in range(0, int(offsets.diff().max()) if rays else 0, slab):
        call('slab_places', offsets, depth, rays, first, slab, limit, places)
        count = int(places[-1])
        if count == 0:
            break
        positions = empty_float32(count, 3)
        call('slab_positions', origins, directions, starts, ends, offsets, places, rays, first, positions)
        found = density_fn(positions).to(density).contiguous()
        call('slab_absorb', found, starts, ends, offsets, places, rays, first, density, depth)
    return density
