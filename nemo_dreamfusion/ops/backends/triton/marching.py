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

"""Ray marching: one ray per lane, a first pass counts and a second writes; the reference is ``ops/marching.py``.

A program ends when the last of its rays has left the box or has ``max_samples``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from nemo_dreamfusion.parts.types import Samples

RAYS = 32  # of one program: all wait for the longest
# One warp, a lane for each ray. Fused multiply-adds and approximate divisions would round differently from the reference,
# which would then keep other samples.
LAUNCH = {'num_warps': 1, 'enable_fp_fusion': False}


@triton.jit
def _march_kernel(
    origins, directions, jitter, occupancy, offsets, counts, ray_indices, starts, ends,
    rays, size, bound, scale, step_size, candidates, max_samples,
    WRITE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = r < rays
    near = tl.zeros([BLOCK], tl.float32)
    far = tl.full([BLOCK], float('inf'), tl.float32)
    for axis in tl.static_range(3):
        o = tl.load(origins + 3 * r + axis, mask=valid, other=0.0)
        d = tl.load(directions + 3 * r + axis, mask=valid, other=1.0)
        slope = tl.where(tl.abs(d) < 1e-10, 1e-10, d)
        low, high = tl.div_rn(-bound - o, slope), tl.div_rn(bound - o, slope)
        near, far = tl.maximum(near, tl.minimum(low, high)), tl.minimum(far, tl.maximum(low, high))
    shift = tl.load(jitter + r, mask=valid, other=0.0)
    to, behind = tl.load(offsets + r, mask=valid, other=0), tl.load(offsets + r + 1, mask=valid, other=0)
    count = tl.zeros([BLOCK], tl.int64)
    last = tl.zeros([BLOCK], tl.float32)
    k = 0
    middle = near + (shift + 0.5) * step_size
    alive = valid & (middle < far)
    while (tl.max(alive.to(tl.int32), axis=0) > 0) & (k < candidates):
        index = tl.zeros([BLOCK], tl.int32)
        for axis in tl.static_range(3):
            o = tl.load(origins + 3 * r + axis, mask=valid, other=0.0)
            d = tl.load(directions + 3 * r + axis, mask=valid, other=0.0)
            cell = tl.where(alive, (o + d * middle + bound) * scale, 0.0).to(tl.int32)
            index = index * size + tl.minimum(tl.maximum(cell, 0), size - 1)
        keep = alive & (tl.load(occupancy + index, mask=alive, other=0) != 0)
        if WRITE:
            fits = keep & (to + count < behind)
            last = tl.where(fits, near + (k + 1 + shift) * step_size, last)
            tl.store(ray_indices + to + count, r.to(tl.int64), mask=fits)
            tl.store(starts + to + count, near + (k + shift) * step_size, mask=fits)
            tl.store(ends + to + count, last, mask=fits)
        count += keep.to(tl.int64)
        k += 1
        middle = near + (k + shift + 0.5) * step_size
        alive = valid & (middle < far) & (count < max_samples)
    if WRITE:
        at = to + count
        while tl.max((at < behind).to(tl.int32), axis=0) > 0:
            tl.store(ray_indices + at, r.to(tl.int64), mask=at < behind)
            tl.store(starts + at, last, mask=at < behind)
            tl.store(ends + at, last, mask=at < behind)
            at += 1
    else:
        tl.store(counts + r, count, mask=valid)


def march(
    origins: Tensor,
    directions: Tensor,
    jitter: Tensor,
    occupancy: Tensor,
    bound: float,
    step_size: float,
    max_samples: int,
    candidates: int,
    allot: Callable[[Tensor], tuple[Tensor, int]],
) -> tuple[Samples, Tensor]:
    """Return samples in the places that ``allot`` gives for the rays' counts (offsets and length), and the counts."""
    rays, size, device = len(origins), occupancy.shape[0], origins.device
    counts = torch.zeros(rays, dtype=torch.int64, device=device)
    scalars = (rays, size, bound, size / (2 * bound), step_size, candidates, max_samples)
    inputs = (origins, directions, jitter, occupancy.to(torch.int8))
    unused = (counts, origins.new_empty(1), origins.new_empty(1))
    nowhere = torch.zeros(rays + 1, dtype=torch.int64, device=device)
    grid = (triton.cdiv(rays, RAYS),)
    if rays:
        _march_kernel[grid](*inputs, nowhere, counts, *unused, *scalars, False, RAYS, **LAUNCH)
    offsets, n = allot(counts)
    arrays = (torch.empty(n, dtype=torch.int64, device=device), origins.new_empty(n), origins.new_empty(n))
    if n:
        _march_kernel[grid](*inputs, offsets, counts, *arrays, *scalars, True, RAYS, **LAUNCH)
    return Samples(*arrays, offsets), counts
