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

"""Ray marching."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.registered.operator import bodies, operator


@operator('march')
def march(
    origins: Tensor,
    directions: Tensor,
    jitter: Tensor,
    occupancy: Tensor,
    bound: float,
    step_size: float,
    max_samples: int,
    min_distance: float,
    candidates: int,
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = [t.contiguous() for t in (origins, directions, jitter, occupancy)]
    samples = bodies(origins).march(*tensors, bound, step_size, max_samples, min_distance, candidates, capacity)
    return samples.ray_indices, samples.starts, samples.ends, samples.offsets


@march.register_fake
def _(origins, directions, jitter, occupancy, bound, step_size, max_samples, min_distance, candidates, capacity):
    n = torch.library.get_ctx().new_dynamic_size()
    index = {'dtype': torch.int64, 'device': origins.device}
    return (
        torch.empty(n, **index),
        origins.new_empty(n),
        origins.new_empty(n),
        torch.empty(origins.shape[0] + 1, **index),
    )
