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

"""Ray marching on the CPU: the kernels of ``csrc/marching.cpp``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32
from nemo_dreamfusion.parts.types import Samples


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
    rays, size, words = len(origins), occupancy.shape[0], -(-candidates // 64)
    bits = torch.empty(rays, words, dtype=torch.int64)
    near, counts = empty_float32(rays), torch.empty(rays, dtype=torch.int64)
    scalars = (float(bound), size / (2 * bound), float(step_size), candidates, max_samples, words)
    call('march_mark', origins, directions, jitter, occupancy, rays, size, *scalars, bits, near, counts)
    offsets, n = allot(counts)
    samples = Samples(torch.empty(n, dtype=torch.int64), empty_float32(n), empty_float32(n), offsets)
    arrays = (samples.ray_indices, samples.starts, samples.ends)
    call('march_write', bits, near, jitter, offsets, rays, words, float(step_size), *arrays)
    return samples, counts


def keep_first(samples: Samples, offsets: Tensor, n: int) -> Samples:
    """Return the first samples of each ray, as many as offsets [R + 1] have places for; n in all."""
    kept = Samples(torch.empty(n, dtype=torch.int64), empty_float32(n), empty_float32(n), offsets)
    starts, ends, before = (t.contiguous() for t in (samples.starts, samples.ends, samples.offsets))
    arrays = (kept.ray_indices, kept.starts, kept.ends)
    call('keep_first', starts, ends, before, offsets, len(offsets) - 1, *arrays)
    return kept
