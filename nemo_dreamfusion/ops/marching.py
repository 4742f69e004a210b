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
from functools import partial

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
) -> tuple[Samples, Tensor]:
    """Return the samples of R rays inside the box [-bound, bound]^3, and how many the rays have, [] int64.

    With t_near where the ray enters the box (0 from inside), the k-th candidate is the interval
    t_near + (k + jitter) * step_size + [0, step_size]. It is kept where its midpoint lies in the box and in an occupied
    cell, up to ``max_samples`` per ray. The result is deterministic.

    On a GPU the host waits until the samples are counted, because it allocates arrays of that length. With a
    ``capacity`` it allocates that many places and does not wait: see :func:`allot_places`.

    Args:
        origins: [R, 3], world units.
        directions: [R, 3] unit.
        occupancy: [G, G, G] bool, indexed [x, y, z].
        bound: half the side of the box.
        step_size: length of a sample, world units.
        max_samples: most samples of one ray.
        jitter: [R] in [0, 1); None is 0.
        capacity: number of samples N to return; None returns as many as the rays have.

    Raises:
        ValueError: for a size that is not positive or an occupancy of another shape or type.

    >>> ray, box = torch.tensor([[0.0, 0.0, 3.0]]), torch.ones(2, 2, 2, dtype=torch.bool)
    >>> samples, total = march_rays(ray, -ray / 3, box, bound=1.0, step_size=0.5, max_samples=9)
    >>> samples.starts, total
    (tensor([2.0000, 2.5000, 3.0000, 3.5000]), tensor(4))
    >>> samples, total = march_rays(ray, -ray / 3, box, bound=1.0, step_size=0.5, max_samples=9, capacity=5)
    >>> samples.ends - samples.starts, total
    (tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.0000]), tensor(4))
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
    if len(origins) == 0:
        capacity = None  # a place belongs to a ray
    if select.backend(origins, directions, jitter) == 'reference':
        samples = march_reference(origins, directions, occupancy, jitter, bound, step_size, max_samples)
        counts = samples.offsets.diff()
        return samples if capacity is None else keep_first(samples, counts, capacity), counts.sum()
    candidates = candidates_per_ray(bound, step_size)
    places = -1 if capacity is None else capacity
    *found, total = march_op(origins, directions, jitter, occupancy, bound, step_size, max_samples, candidates, places)
    return Samples(*found), total


def allot_places(counts: Tensor, capacity: int | None = None) -> tuple[Tensor, int]:
    """Return where each ray's samples stand in packed arrays, offsets [R + 1], and the length N of these arrays.

    Without a ``capacity`` N is the number of samples. With one N is the capacity. Places to spare are spread evenly over
    the rays, each behind the samples of its ray: they are filled with samples of length 0. Where places are too few, the
    last rays get fewer than they have samples. Nothing here makes the host wait for a GPU then.

    Args:
        counts: [R] int64, samples of each ray, R > 0 with a capacity.
        capacity: number of places, or None.

    >>> allot_places(torch.tensor([2, 0, 1]), capacity=9)
    (tensor([0, 4, 6, 9]), 9)
    >>> allot_places(torch.tensor([2, 0, 1]), capacity=2)
    (tensor([0, 2, 2, 2]), 2)
    """
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    if capacity is None:
        return offsets, int(offsets[-1])
    to_spare = (capacity - offsets[-1]).clamp(min=0)
    spread = to_spare * torch.arange(len(offsets), device=counts.device) // len(counts)
    return offsets.clamp(max=capacity) + spread, capacity


def keep_first(samples: Samples, counts: Tensor, capacity: int | None = None) -> Samples:
    """Return the first ``counts`` [R] samples of each ray, in places that :func:`allot_places` allots.

    A sample of length 0 stands where the last kept sample of its ray ends, and at distance 0 on a ray without one.

    >>> starts, offsets = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0, 2, 3])
    >>> samples = Samples(torch.tensor([0, 0, 1]), starts, starts + 1, offsets)
    >>> keep_first(samples, torch.tensor([1, 1])).starts
    tensor([1., 1.])
    >>> keep_first(samples, torch.tensor([1, 1]), capacity=4).starts
    tensor([1., 2., 1., 2.])
    """
    offsets, n = allot_places(counts, capacity)
    if capacity is None and select.backend(samples.starts) == 'native' and not torch.compiler.is_compiling():
        return select.kernels('marching', samples.starts).keep_first(samples, offsets, n)
    rays = torch.arange(len(counts), device=counts.device).repeat_interleave(offsets.diff(), output_size=n)
    along = torch.arange(n, device=counts.device) - offsets[rays]
    source = samples.offsets[rays] + along
    if capacity is None:
        return Samples(rays, samples.starts[source], samples.ends[source], offsets)
    exists = along < counts[rays]
    last = samples.offsets[rays] + counts[rays] - 1
    source = torch.where(exists, source, torch.where(counts[rays] > 0, last, len(samples)))
    starts, ends = (torch.nn.functional.pad(distances, (0, 1))[source] for distances in (samples.starts, samples.ends))
    return Samples(rays, torch.where(exists, starts, ends), ends, offsets)


def candidates_per_ray(bound: float, step_size: float) -> int:
    """Return the number of steps along the box's diagonal: no ray has more candidates."""
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
    offsets, _ = allot_places(torch.cat(counts))
    return Samples(torch.cat(indices), torch.cat(starts), torch.cat(ends), offsets)


def _occupied(positions: Tensor, occupancy: Tensor, bound: float) -> Tensor:
    """Return whether the cells of positions [..., 3] are occupied: [...] bool."""
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run a backend's kernels, which fill the places that ``allot`` gives each ray; a capacity of -1 is none."""
    tensors = [t.contiguous() for t in (origins, directions, jitter, occupancy)]
    allot = partial(allot_places, capacity=None if capacity < 0 else capacity)
    march = select.kernels('marching', origins).march
    samples, counts = march(*tensors, bound, step_size, max_samples, candidates, allot)
    return samples.ray_indices, samples.starts, samples.ends, samples.offsets, counts.sum()


@march_op.register_fake
def _(origins, directions, jitter, occupancy, bound, step_size, max_samples, candidates, capacity):
    n = torch.library.get_ctx().new_dynamic_size() if capacity < 0 else capacity
    index = {'dtype': torch.int64, 'device': origins.device}
    return (
        torch.empty(n, **index),
        origins.new_empty(n),
        origins.new_empty(n),
        torch.empty(origins.shape[0] + 1, **index),
        torch.empty((), **index),
    )
