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

"""Volume rendering of a grid of voxels on the CPU: the kernel of ``csrc/voxels.cpp``."""

from __future__ import annotations

from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32


def render(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    voxels: Tensor,
    opacities: Tensor,
    bound: float,
    step_size: float,
    lowest: float,
    highest: float,
    max_samples: int,
    candidates: int,
    transmittance_thresh: float,
) -> Tensor:
    """Return the sums along the rays, [R, 5]."""
    rays, size, grid_size, entries = len(origins), occupancy.shape[0], voxels.shape[0], len(opacities)
    scales = (float(bound), size / (2 * bound), (grid_size - 1) / (2 * bound), float(step_size))
    table = (float(lowest), (entries - 1) / (highest - lowest), float(transmittance_thresh))
    out = empty_float32(rays, 5)
    sizes = (rays, size, grid_size, entries)
    call(
        'render_voxels',
        origins,
        directions,
        occupancy,
        voxels,
        opacities,
        *sizes,
        *scales,
        *table,
        candidates,
        max_samples,
        out,
    )
    return out
