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

"""Volume rendering: weights from the densities along rays, and weighted sums per ray.

Max, "Optical models for direct volume rendering" (1995), as in NeRF, equation (3), https://arxiv.org/abs/2003.08934.
For sample i of a ray:

- optical depth tau_i = density_i (end_i - start_i)
- opacity alpha_i = 1 - exp(-tau_i)
- transmittance T_i = exp(-sum of tau_j over the samples j before i)
- weight w_i = T_i alpha_i
"""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import Samples

# Optical depths are limited to this: exp(-100) underflows even float32's denormals, and sums stay finite.
THICKEST = 100.0


def render_weights(density: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
    """Return the weight w and the transmittance T of each sample.

    Args:
        density: [N], per world unit, >= 0.
        samples: where they lie on their rays.

    Returns:
        Weights [N] and transmittances [N] before each sample, float32 at least, differentiable with respect to ``density``
        (twice).

    Each of two samples lets half of the light through:

    >>> ray = Samples(torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 2]))
    >>> density = torch.log(torch.tensor([2.0, 2.0]))
    >>> render_weights(density, ray)
    (tensor([0.5000, 0.2500]), tensor([1.0000, 0.5000]))
    """
    density = density.to(torch.promote_types(density.dtype, samples.starts.dtype))  # never in half precision
    if select.backend(density, samples.starts) == 'reference':
        return weights_reference(density, samples)
    return render_weights_op(density, samples.ray_indices, samples.starts, samples.ends, samples.offsets)


def accumulate(weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
    """Return the weighted sums along each ray.

    Args:
        weights: [N].
        values: [N, C], such as colours; None for ones [N, 1]: the sum of weights is the opacity.
        samples: where they lie on their rays.
        n_rays: R.

    Returns:
        [R, C], differentiable with respect to ``weights`` and ``values`` (twice).

    Raises:
        ValueError: ``samples`` are not of ``n_rays`` rays.

    >>> ray = Samples(torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 2]))
    >>> accumulate(torch.tensor([0.5, 0.25]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), ray, n_rays=1)
    tensor([[0.5000, 0.2500]])
    >>> accumulate(torch.tensor([0.5, 0.25]), None, ray, n_rays=1)
    tensor([[0.7500]])
    """
    if len(samples.offsets) != n_rays + 1:
        refuse('n_rays', n_rays, f'{len(samples.offsets) - 1}, the number of rays of the samples')
    if values is not None:
        values = values.to(torch.promote_types(values.dtype, weights.dtype))
    if select.backend(weights, values) == 'reference':
        return accumulate_reference(weights, values, samples, n_rays)
    return accumulate_op(weights, values, samples.ray_indices, samples.offsets)


@torch.no_grad()
def visible_prefix(density: Tensor, samples: Samples, threshold: float) -> Tensor:
    """Return which samples light still reaches: transmittance >= threshold, [N] bool.

    These are the first samples of each ray. There is no gradient.

    >>> ray = Samples(torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 2]))
    >>> visible_prefix(torch.tensor([10.0, 10.0]), ray, threshold=1e-3)
    tensor([ True, False])
    """
    density = density.to(torch.promote_types(density.dtype, samples.starts.dtype))
    if select.backend(density, samples.starts) == 'reference':
        return weights_reference(density, samples)[1] >= threshold
    return visible_prefix_op(density, samples.starts, samples.ends, samples.offsets, threshold)


@torch.no_grad()
def visible_counts(density: Tensor, samples: Samples, threshold: float) -> Tensor:
    """Return how many samples of each ray light still reaches, those of length 0 left out: [N] -> [R] int64.

    >>> ray = Samples(torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 2]))
    >>> visible_counts(torch.tensor([10.0, 10.0]), ray, threshold=1e-3)
    tensor([1])
    """
    if select.backend(density, samples.starts) == 'native' and not torch.compiler.is_compiling():
        inputs = (t.contiguous() for t in (density, samples.starts, samples.ends, samples.offsets))
        return select.kernels('compositing', density).visible_counts(*inputs, threshold)
    visible = visible_prefix(density, samples, threshold) & (samples.ends > samples.starts)
    before = torch.cat([visible.new_zeros(1, dtype=torch.int64), visible.cumsum(0)])
    return before[samples.offsets].diff()


def weights_reference(density: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`render_weights`: one running sum over all rays, less its value at each ray's start.

    The sum is in float64: over all rays it grows so large that a difference in float32 would have no digits left.
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
    """Return the gradient [N] with respect to the density, itself differentiable."""
    outputs = weights_reference(density, Samples(ray_indices, starts, ends, offsets))
    pairs = [(o, g) for o, g in zip(outputs, (grad_weights, grad_transmittance), strict=True) if g is not None]
    used, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(used, density, gradients, create_graph=True)[0]


def accumulate_reference(weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
    """Reference implementation of :func:`accumulate`: add the weighted values to their rays."""
    terms = weights[:, None] if values is None else weights[:, None] * values
    return terms.new_zeros(n_rays, terms.shape[1]).index_add(0, samples.ray_indices, terms)


# The operators torch.ops.nemo_dreamfusion.*. Gradients of gradients go through the reference implementation.


@torch.library.custom_op('nemo_dreamfusion::render_weights', mutates_args=())
def render_weights_op(
    density: Tensor, ray_indices: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    return select.kernels('compositing', density).weights_forward(
        *(t.contiguous() for t in (density, starts, ends, offsets))
    )


@render_weights_op.register_fake
def _(density, ray_indices, starts, ends, offsets):
    return density.new_empty(density.shape), density.new_empty(density.shape)


@torch.library.custom_op('nemo_dreamfusion::render_weights_backward', mutates_args=())
def render_weights_backward_op(
    grad_weights: Tensor | None,
    grad_transmittance: Tensor | None,
    density: Tensor,
    starts: Tensor,
    ends: Tensor,
    offsets: Tensor,
    weights: Tensor,
    transmittance: Tensor,
) -> Tensor:
    grads = [None if g is None else g.contiguous() for g in (grad_weights, grad_transmittance)]
    inputs = (density, starts, ends, offsets, weights, transmittance)
    return select.kernels('compositing', density).weights_backward(*grads, *(t.contiguous() for t in inputs))


@render_weights_backward_op.register_fake
def _(grad_weights, grad_transmittance, density, starts, ends, offsets, weights, transmittance):
    return density.new_empty(density.shape)


def _save_weights(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output)


def _weights_gradients(ctx, grad_weights, grad_transmittance):
    density, ray_indices, starts, ends, offsets, weights, transmittance = ctx.saved_tensors
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        grad = weights_gradient_reference(
            grad_weights, grad_transmittance, density, ray_indices, starts, ends, offsets
        )
    else:
        inputs = (density, starts, ends, offsets, weights, transmittance)
        grad = render_weights_backward_op(grad_weights, grad_transmittance, *inputs)
    return grad, None, None, None, None


render_weights_op.register_autograd(_weights_gradients, setup_context=_save_weights)


@torch.library.custom_op('nemo_dreamfusion::visible_prefix', mutates_args=())
def visible_prefix_op(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    return select.kernels('compositing', density).visible_prefix(
        *(t.contiguous() for t in (density, starts, ends, offsets)), threshold
    )


@visible_prefix_op.register_fake
def _(density, starts, ends, offsets, threshold):
    return density.new_empty(density.shape, dtype=torch.bool)


@torch.library.custom_op('nemo_dreamfusion::accumulate', mutates_args=())
def accumulate_op(weights: Tensor, values: Tensor | None, ray_indices: Tensor, offsets: Tensor) -> Tensor:
    values = None if values is None else values.contiguous()
    return select.kernels('compositing', weights).accumulate_forward(
        weights.contiguous(), values, offsets.contiguous()
    )


@accumulate_op.register_fake
def _(weights, values, ray_indices, offsets):
    return weights.new_empty(offsets.shape[0] - 1, 1 if values is None else values.shape[1])


@torch.library.custom_op('nemo_dreamfusion::accumulate_backward', mutates_args=())
def accumulate_backward_op(
    grad: Tensor, weights: Tensor, values: Tensor | None, offsets: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    values = None if values is None else values.contiguous()
    inputs = (grad.contiguous(), weights.contiguous(), values, offsets.contiguous())
    for_weights, for_values = select.kernels('compositing', weights).accumulate_backward(*inputs, tuple(needs))
    return (  # an operator cannot return None
        weights.new_empty(0) if for_weights is None else for_weights,
        weights.new_empty(0) if for_values is None else for_values,
    )


@accumulate_backward_op.register_fake
def _(grad, weights, values, offsets, needs):
    return (
        weights.new_empty(weights.shape if needs[0] else (0,)),
        weights.new_empty(values.shape if needs[1] else (0,)),
    )


def _save_accumulate(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _accumulate_gradients(ctx, grad):
    weights, values, ray_indices, offsets = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:2])
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        at_samples = grad[ray_indices]
        results = (
            (at_samples if values is None else at_samples * values).sum(1) if needs[0] else None,
            weights[:, None] * at_samples if needs[1] else None,
        )
    else:
        results = accumulate_backward_op(grad, weights, values, offsets, needs)
    return (*(result if need else None for result, need in zip(results, needs, strict=True)), None, None)


accumulate_op.register_autograd(_accumulate_gradients, setup_context=_save_accumulate)
