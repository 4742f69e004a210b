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

"""Volume rendering of a scene on a grid of voxels, without a gradient: for many pictures of one finished object.

A field that is a network costs a hundred times as much to ask as eight corners of a grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.compositing import accumulate, render_weights, visible_prefix
from nemo_dreamfusion.ops.marching import candidates_per_ray, march_rays
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import Samples

_OPAQUE = 1 - 1e-7  # an opacity of 1 would be an infinite density
CHUNK_RAYS = 2**14  # of the reference at once: bounds its memory


@torch.no_grad()
def render_voxels(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    voxels: Tensor,
    opacities: Tensor,
    *,
    bound: float,
    step_size: float,
    raw_range: tuple[float, float],
    max_samples: int,
    transmittance_thresh: float,
) -> Tensor:
    """Return the weighted sums along R rays through the box: three values, opacity, distance: [R, 5].

    Samples lie where :func:`~nemo_dreamfusion.ops.marching.march_rays` puts them. Each asks the grid between its eight
    nearest corners (trilinear), and the table of opacities, between its two nearest entries, with the first number found.

    Args:
        origins: [R, 3], world units.
        directions: [R, 3] unit.
        occupancy: [G, G, G] bool, indexed [x, y, z].
        voxels: [V, V, V, 4] at corners of a grid over the box, both faces included: a raw density, and three values.
        opacities: [T], those of a sample of length ``step_size`` at T raw densities in equal steps over ``raw_range``.
        bound: half the side of the box.
        step_size: length of a sample, world units.
        raw_range: raw densities of the first and the last opacity; what lies outside gets those.
        max_samples: most samples of one ray.
        transmittance_thresh: samples behind this transmittance are left out; 0 keeps all.

    Raises:
        ValueError: for tensors of other shapes, or an empty range.

    >>> ray, box = torch.tensor([[0.0, 0.0, 3.0]]), torch.ones(1, 1, 1, dtype=torch.bool)
    >>> white = torch.ones(2, 2, 2, 4)  # each sample takes half of the light that is left
    >>> limits = dict(bound=1.0, step_size=1.0, raw_range=(0.0, 1.0), max_samples=9, transmittance_thresh=0.0)
    >>> render_voxels(ray, -ray / 3, box, white, torch.tensor([0.0, 0.5]), **limits)
    tensor([[0.7500, 0.7500, 0.7500, 0.7500, 2.1250]])
    """
    lowest, highest = raw_range
    size = voxels.shape[0]
    if voxels.ndim != 4 or voxels.shape != (size, size, size, 4) or size < 2:
        refuse('voxels', tuple(voxels.shape), '[V, V, V, 4] with V of 2 or more')
    if opacities.ndim != 1 or len(opacities) < 2:
        refuse('opacities', tuple(opacities.shape), '[T] with T of 2 or more')
    if not lowest < highest:
        refuse('raw_range', raw_range, 'two numbers, the smaller one first')
    if occupancy.ndim != 3 or len(set(occupancy.shape)) != 1 or occupancy.dtype != torch.bool:
        refuse('occupancy', (tuple(occupancy.shape), occupancy.dtype), '[G, G, G] of torch.bool')
    if select.backend(origins, directions, voxels, opacities) == 'native':
        tensors = (t.contiguous() for t in (origins, directions, occupancy, voxels, opacities))
        limits = (bound, step_size, lowest, highest, max_samples, candidates_per_ray(bound, step_size))
        return select.kernels('voxels', origins).render(*tensors, *limits, transmittance_thresh)
    parts = [
        _render_reference(
            o, d, occupancy, voxels, opacities, bound, step_size, raw_range, max_samples, transmittance_thresh
        )
        for o, d in zip(origins.split(CHUNK_RAYS), directions.split(CHUNK_RAYS))
    ]
    return torch.cat(parts) if parts else origins.new_zeros(0, 5)


def _render_reference(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    voxels: Tensor,
    opacities: Tensor,
    bound: float,
    step_size: float,
    raw_range: tuple[float, float],
    max_samples: int,
    threshold: float,
) -> Tensor:
    """Reference implementation: the operators of a render, with a grid for the field."""
    samples, _ = march_rays(origins, directions, occupancy, bound=bound, step_size=step_size, max_samples=max_samples)
    middle = samples.middles[:, None]
    found = interpolate(voxels, origins[samples.ray_indices] + middle * directions[samples.ray_indices], bound)
    density = -torch.log1p(-look_up(opacities, found[:, 0], raw_range).clamp(max=_OPAQUE)) / step_size
    # The samples' own lengths are the step's to within rounding; one number keeps alpha that of the table
    even = Samples(
        samples.ray_indices, torch.zeros_like(density), torch.full_like(density, step_size), samples.offsets
    )
    weights = render_weights(density, even)[0]
    if threshold > 0:
        weights = weights * visible_prefix(density, even, threshold)
    values = torch.cat([found[:, 1:], torch.ones_like(middle), middle], -1)
    return accumulate(weights, values, samples, len(origins))


def interpolate(voxels: Tensor, positions: Tensor, bound: float) -> Tensor:
    """Return what lies between the eight nearest corners: [V, V, V, C] at [N, 3] -> [N, C]."""
    size = voxels.shape[0]
    at = (positions + bound) * ((size - 1) / (2 * bound))
    cell = at.long().clamp(0, size - 2)
    share = (at - cell).clamp(0, 1)
    total = voxels.new_zeros(len(positions), voxels.shape[-1])
    for corner in range(8):
        step = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=voxels.device)
        x, y, z = (cell + step).unbind(-1)
        total += torch.where(step == 1, share, 1 - share).prod(-1, keepdim=True) * voxels[x, y, z]
    return total


def look_up(table: Tensor, values: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Return what lies between the two nearest of the entries [T] that stand in equal steps over a range: [N] -> [N]."""
    lowest, highest = value_range
    at = ((values - lowest) * ((len(table) - 1) / (highest - lowest))).nan_to_num(0).clamp(0, len(table) - 1)
    before = at.long().clamp(max=len(table) - 2)
    return torch.lerp(table[before], table[before + 1], at - before)
