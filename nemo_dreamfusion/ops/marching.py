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

"""Ray marching: samples at a fixed step where an occupancy grid says that something may be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.parts.types import Samples

# A direction component below this is taken for this: a ray along a face stays finite (no 0 / 0).
SMALLEST_COMPONENT = 1e-10
# Candidates the reference holds at once: bounds its memory to a few hundred MB.
CHUNK_ELEMENTS = 2**22


@torch.no_grad()
def march_rays(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    *,
    bound: float,
    step_size: float,
    max_samples: int,
    jitter: Tensor | None = None,
    capacity: int | None = None,
) -> Samples:
    """Samples of rays inside the box [-bound, bound]^3, deterministic, in the order of the rays.

    origins and directions [R, 3] (unit length); occupancy [G, G, G] bool, indexed [x, y, z]; step_size in
    world units. With t_near where the ray enters the box (0 from inside), the k-th candidate is the interval
    t_near + (k + jitter) * step_size + [0, step_size], jitter [R] in [0, 1). It is kept where its midpoint lies in the
    box and in an occupied cell, up to max_samples per ray.

    On a GPU the host has to wait until the samples are counted, to make arrays of that size. With a ``capacity`` it makes
    them of that size instead (``padded``) and waits for nothing; ``offsets`` count all samples, and those beyond the
    capacity, of the last rays, are not there. Elsewhere a capacity changes nothing.
    """
    if not (step_size > 0 and bound > 0 and max_samples >= 1):
        raise ValueError(
            f'step_size={step_size}, bound={bound}, max_samples={max_samples} is not allowed: '
            'set step_size > 0, bound > 0 and max_samples >= 1.'
        )
    if occupancy.ndim != 3 or len(set(occupancy.shape)) != 1 or occupancy.dtype != torch.bool:
        raise ValueError(f'occupancy is {tuple(occupancy.shape)} of {occupancy.dtype}: pass [G, G, G] of torch.bool.')
    if jitter is None:
        jitter = origins.new_zeros(origins.shape[0])
    if select.backend(origins, directions, jitter) == 'reference':
        return march_reference(origins, directions, occupancy, jitter, bound, step_size, max_samples)
    candidates = candidates_per_ray(bound, step_size)
    tensors = (origins, directions, jitter, occupancy)
    room = -1 if capacity is None else capacity
    found = march_op(*tensors, bound, step_size, max_samples, candidates, room)
    return Samples(*found, padded=capacity is not None and select.backend(origins) == 'triton')


def candidates_per_ray(bound: float, step_size: float) -> int:
    """Steps along the box's diagonal: no ray has more candidates."""
    return math.ceil(2 * math.sqrt(3) * bound / step_size) + 1


def box_distances(origins: Tensor, directions: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Return where rays enter (0 from inside) and leave the box: [R], [R]; a miss has near >= far."""
    slope = torch.where(directions.abs() < SMALLEST_COMPONENT, SMALLEST_COMPONENT, directions)
    low, high = (-bound - origins) / slope, (bound - origins) / slope
    near = torch.minimum(low, high).amax(1).clamp_min(0.0)
    return near, torch.maximum(low, high).amin(1)


def march_reference(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    jitter: Tensor,
    bound: float,
    step_size: float,
    max_samples: int,
) -> Samples:
    """Reference implementation: every candidate of a chunk of rays at once."""
    candidates = candidates_per_ray(bound, step_size)
    size = max(CHUNK_ELEMENTS // candidates, 1)
    indices, starts, ends, counts = [], [], [], []
    for first in range(0, max(len(origins), 1), size):
        o, d, j = (x[first : first + size] for x in (origins, directions, jitter))
        near, far = box_distances(o, d, bound)
        steps = torch.arange(candidates, device=o.device, dtype=o.dtype) + j[:, None]  # [R, K]
        middle = near[:, None] + (steps + 0.5) * step_size
        kept = middle < far[:, None]
        kept &= _occupied(o[:, None] + d[:, None] * middle[..., None], occupancy, bound)
        kept &= kept.cumsum(1) <= max_samples
        ray, k = kept.nonzero(as_tuple=True)
        indices.append(ray + first)
        starts.append(near[ray] + steps[ray, k] * step_size)
        ends.append(near[ray] + (k + 1 + j[ray]) * step_size)
        counts.append(kept.sum(1))
    offsets = torch.cat([counts[0].new_zeros(1), torch.cat(counts).cumsum(0)])
    return Samples(torch.cat(indices), torch.cat(starts), torch.cat(ends), offsets)


def _occupied(positions: Tensor, occupancy: Tensor, bound: float) -> Tensor:
    """Whether the cells of positions [..., 3] are occupied: [...] bool."""
    size = occupancy.shape[0]
    x, y, z = ((positions + bound) * (size / (2 * bound))).long().clamp(0, size - 1).unbind(-1)
    return occupancy[x, y, z]


@torch.library.custom_op('nemo_dreamfusion::march', mutates_args=())
def march_op(
    origins: Tensor,
    directions: Tensor,
    jitter: Tensor,
    occupancy: Tensor,
    bound: float,
    step_size: float,
    max_samples: int,
    candidates: int,
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = [t.contiguous() for t in (origins, directions, jitter, occupancy)]
    samples = select.kernels('marching', origins).march(*tensors, bound, step_size, max_samples, candidates, capacity)
    return samples.ray_indices, samples.starts, samples.ends, samples.offsets


@march_op.register_fake
def _(origins, directions, jitter, occupancy, bound, step_size, max_samples, candidates, capacity):
    n = torch.library.get_ctx().new_dynamic_size()
    index = {'dtype': torch.int64, 'device': origins.device}
    return (
        torch.empty(n, **index),
        origins.new_empty(n),
        origins.new_empty(n),
        torch.empty(origins.shape[0] + 1, **index),
    )
