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

"""Volume rendering: densities along rays to weights, and weighted sums per ray.

Max, "Optical models for direct volume rendering" (1995), as in NeRF, equation (3), https://arxiv.org/abs/2003.08934:
with optical depth tau_i = density_i * (end_i - start_i), transmittance T_i = exp(-sum of tau_j over the samples before
i on the same ray), opacity alpha_i = 1 - exp(-tau_i), weight w_i = T_i * alpha_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops import registered
from nemo_dreamfusion.ops.backends import select as native
from nemo_dreamfusion.parts.types import Samples

# exp(-100) is nothing even in float32's smallest numbers: a sample this thick is opaque, and sums stay finite.
THICKEST = 100.0


def render_weights(density: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
    """density [N] -> weights [N] and the transmittance [N] before each sample. Differentiable to the density."""
    density = density.to(torch.promote_types(density.dtype, samples.starts.dtype))  # never in half precision
    if native.body(density, samples.starts) == 'reference':
        return weights_reference(density, samples)
    return registered.render_weights(density, samples.ray_indices, samples.starts, samples.ends, samples.offsets)


def accumulate(weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
    """Weighted sums per ray: weights [N], values [N, C] -> [R, C]; without values the sum of weights [R, 1].

    Differentiable to the weights and the values.
    """
    if values is not None:
        values = values.to(torch.promote_types(values.dtype, weights.dtype))
    if native.body(weights, values) == 'reference':
        return accumulate_reference(weights, values, samples, n_rays)
    if len(samples.offsets) != n_rays + 1:
        raise ValueError(f'n_rays={n_rays}, but the samples are of {len(samples.offsets) - 1} rays.')
    return registered.accumulate(weights, values, samples.ray_indices, samples.offsets)


@torch.no_grad()
def visible_prefix(density: Tensor, samples: Samples, threshold: float) -> Tensor:
    """Which samples still receive light: transmittance >= threshold, [N] bool. A prefix of every ray, no gradient."""
    density = density.to(torch.promote_types(density.dtype, samples.starts.dtype))
    if native.body(density, samples.starts) == 'reference':
        return weights_reference(density, samples)[1] >= threshold
    return registered.visible_prefix(density, samples.starts, samples.ends, samples.offsets, threshold)


def weights_reference(density: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
    """The readable body: one running sum over all rays, less its value where each ray begins.

    The sum is in float64: over all rays it grows far beyond what float32 can subtract again.
    """
    depth = (density.double() * (samples.ends - samples.starts)).clamp(max=THICKEST)
    before = torch.cat([depth.new_zeros(1), depth.cumsum(0)])
    transmittance = torch.exp(before[samples.offsets[samples.ray_indices]] - before[:-1])
    weights = transmittance * -torch.expm1(-depth)
    return weights.to(density.dtype), transmittance.to(density.dtype)


def weights_gradient_reference(
    grad_weights: Tensor | None,
    grad_transmittance: Tensor | None,
    density: Tensor,
    ray_indices: Tensor,
    starts: Tensor,
    ends: Tensor,
    offsets: Tensor,
) -> Tensor:
    """The gradient [N] with respect to the density, itself differentiable."""
    outputs = weights_reference(density, Samples(ray_indices, starts, ends, offsets))
    pairs = [(o, g) for o, g in zip(outputs, (grad_weights, grad_transmittance), strict=True) if g is not None]
    outputs, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, density, gradients, create_graph=True)[0]


def accumulate_reference(weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
    """The readable body."""
    terms = weights[:, None] if values is None else weights[:, None] * values
    return terms.new_zeros(n_rays, terms.shape[1]).index_add(0, samples.ray_indices, terms)
