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


"""Which samples light reaches: what lies behind a solid surface is neither evaluated nor trained on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nemo_dreamfusion.modules.renderers.base import DensityFunction
from nemo_dreamfusion.modules.renderers.room import SampleBudget
from nemo_dreamfusion.ops.compositing import visible_prefix
from nemo_dreamfusion.parts.types import Samples

SLAB = 8  # samples of each ray between two looks at its transmittance


def drop_hidden(
    samples: Samples,
    origins: Tensor,
    directions: Tensor,
    density: DensityFunction,
    threshold: float,
    room: SampleBudget | None = None,
) -> Samples:
    """The samples of rays [R, 3] whose transmittance is ``threshold`` or more; 0 keeps all.

    On a CPU what lies behind spent light is not even evaluated. On a GPU every slab would make the host wait for the device
    to learn its size, so all samples are evaluated at once; and with a ``room`` for those that are kept nobody waits for
    their number either.
    """
    if threshold <= 0 or len(samples) == 0:
        return samples
    middle = (samples.starts + samples.ends)[:, None] / 2
    positions = origins[samples.ray_indices] + middle * directions[samples.ray_indices]
    if room is not None or positions.is_cuda:
        seen = density(positions)
    else:
        seen = density_front_to_back(positions, samples, density, threshold)
    visible = visible_prefix(seen, samples, threshold)
    if room is None:
        return keep(samples, visible)
    return room.fitted(keep(samples, visible, room.capacity(len(origins))))


def density_front_to_back(positions: Tensor, samples: Samples, density: DensityFunction, threshold: float) -> Tensor:
    """Density [N] of the samples that light reaches; what lies behind spent light is not asked for and gets infinity.

    The rays advance together, a slab of samples at a time, and a ray drops out when its transmittance falls below
    ``threshold``: inside a solid object most samples are never evaluated.
    """
    seen = torch.full_like(samples.starts, torch.inf)
    along = torch.arange(len(samples), device=seen.device) - samples.offsets[samples.ray_indices]
    order = (along // SLAB).sort(stable=True)
    bounds = torch.bincount(order.values).cumsum(0).tolist()
    depth = seen.new_zeros(len(samples.offsets) - 1)  # optical depth of each ray so far
    limit = -math.log(threshold)
    for begin, end in zip([0, *bounds], bounds):
        part = order.indices[begin:end]
        part = part[depth[samples.ray_indices[part]] <= limit]
        if len(part) == 0:
            break
        found = density(positions[part]).to(seen)
        seen[part] = found
        depth.index_add_(0, samples.ray_indices[part], found * (samples.ends[part] - samples.starts[part]))
    return seen


def keep(samples: Samples, mask: Tensor, capacity: int | None = None) -> Samples:
    """The samples where mask [N] holds.

    Their number is the only thing that the host waits for; not even for that with a ``capacity``, which is then the length
    of the arrays (see :func:`nemo_dreamfusion.ops.marching.march_rays`).
    """
    before = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.cumsum(0)])
    arrays = (samples.ray_indices, samples.starts, samples.ends)
    if capacity is None:
        kept = mask.nonzero()[:, 0]
        return Samples(*(array[kept] for array in arrays), offsets=before[samples.offsets])
    # What is not kept, or has no room, goes to a last place, which is cut off.
    place = torch.where(mask, before[:-1], capacity).clamp(max=capacity)
    packed = (array.new_zeros(capacity + 1).scatter_(0, place, array)[:capacity] for array in arrays)
    return Samples(*packed, offsets=before[samples.offsets], padded=True)
