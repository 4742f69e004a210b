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

"""What samples have of their rays: values, positions, and the density that light reaches."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.parts.types import Samples

SLAB = 8  # samples of each ray between two looks at its transmittance


def _has_kernels(*tensors: Tensor) -> bool:
    """Return whether the kernels take these tensors: on the CPU, without a gradient (cameras are not learnt)."""
    learnt = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return not learnt and not torch.compiler.is_compiling() and select.backend(*tensors) == 'native'


def values_of_rays(values: Tensor, samples: Samples) -> Tensor:
    """Give each sample the values of its ray: [R, C] -> [N, C].

    >>> samples = Samples(torch.tensor([0, 0, 1]), torch.zeros(3), torch.ones(3), torch.tensor([0, 2, 3]))
    >>> values_of_rays(torch.tensor([[1.0], [2.0]]), samples)[:, 0]
    tensor([1., 1., 2.])
    """
    if _has_kernels(values):
        return select.kernels('rays', values).values_of_rays(values.contiguous(), samples)
    return values[samples.ray_indices]


def positions_on_rays(origins: Tensor, directions: Tensor, distances: Tensor, samples: Samples) -> Tensor:
    """Return the positions [N, 3] at distances [N] along the samples' rays, of origins and unit directions [R, 3]."""
    if _has_kernels(origins, directions, distances):
        inputs = (origins.contiguous(), directions.contiguous(), distances.contiguous())
        return select.kernels('rays', origins).positions_on_rays(*inputs, samples)
    return origins[samples.ray_indices] + distances[:, None] * directions[samples.ray_indices]


@torch.no_grad()
def density_front_to_back(
    origins: Tensor,
    directions: Tensor,
    samples: Samples,
    density_fn: Callable[[Tensor], Tensor],
    threshold: float,
) -> Tensor:
    """Return the density [N] of the samples that light reaches; the others get the largest finite number.

    The rays advance side by side, a slab of samples at a time, and a ray drops out when its transmittance falls below
    ``threshold``: inside a solid object most samples are never evaluated.

    Args:
        origins: [R, 3].
        directions: [R, 3] unit.
        samples: where they lie on these rays.
        density_fn: positions [K, 3] -> density [K], per world unit.
        threshold: of the transmittance.
    """
    inputs = (origins, directions, samples, density_fn, -math.log(threshold))
    if _has_kernels(origins, directions, samples.starts):
        return select.kernels('rays', origins).density_front_to_back(*inputs, SLAB)
    return front_to_back_reference(*inputs)


def front_to_back_reference(
    origins: Tensor, directions: Tensor, samples: Samples, density_fn: Callable[[Tensor], Tensor], limit: float
) -> Tensor:
    """Reference implementation of :func:`density_front_to_back`; ``limit`` is the optical depth of spent light."""
    positions = origins[samples.ray_indices] + samples.middles[:, None] * directions[samples.ray_indices]
    density = torch.full_like(samples.starts, torch.finfo(samples.starts.dtype).max)
    along = torch.arange(len(samples), device=density.device) - samples.offsets[samples.ray_indices]
    order = (along // SLAB).sort(stable=True)
    bounds = torch.bincount(order.values).cumsum(0).tolist()
    depth = density.new_zeros(len(samples.offsets) - 1)  # optical depth of each ray so far
    for begin, end in zip([0, *bounds], bounds):
        part = order.indices[begin:end]
        part = part[depth[samples.ray_indices[part]] <= limit]
        if len(part) == 0:
            break
        found = density_fn(positions[part]).to(density)
        density[part] = found
        depth.index_add_(0, samples.ray_indices[part], found * (samples.ends[part] - samples.starts[part]))
    return density
