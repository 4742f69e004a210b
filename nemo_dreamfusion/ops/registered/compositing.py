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

"""Compositing. Gradients of gradients go through the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.registered.operator import bodies, operator


@operator('render_weights')
def render_weights(
    density: Tensor, ray_indices: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    return bodies(density).weights_forward(*(t.contiguous() for t in (density, starts, ends, offsets)))


@render_weights.register_fake
def _(density, ray_indices, starts, ends, offsets):
    return density.new_empty(density.shape), density.new_empty(density.shape)


@operator('render_weights_backward')
def render_weights_backward(
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
    return bodies(density).weights_backward(*grads, *(t.contiguous() for t in inputs))


@render_weights_backward.register_fake
def _(grad_weights, grad_transmittance, density, starts, ends, offsets, weights, transmittance):
    return density.new_empty(density.shape)


def _save_weights(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output)


def _weights_gradients(ctx, grad_weights, grad_transmittance):
    density, ray_indices, starts, ends, offsets, weights, transmittance = ctx.saved_tensors
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        from nemo_dreamfusion.ops.compositing import weights_gradient_reference

        grad = weights_gradient_reference(
            grad_weights, grad_transmittance, density, ray_indices, starts, ends, offsets
        )
    else:
        inputs = (density, starts, ends, offsets, weights, transmittance)
        grad = render_weights_backward(grad_weights, grad_transmittance, *inputs)
    return grad, None, None, None, None


render_weights.register_autograd(_weights_gradients, setup_context=_save_weights)


@operator('visible_prefix')
def visible_prefix(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    return bodies(density).visible_prefix(*(t.contiguous() for t in (density, starts, ends, offsets)), threshold)


@visible_prefix.register_fake
def _(density, starts, ends, offsets, threshold):
    return density.new_empty(density.shape, dtype=torch.bool)


@operator('accumulate')
def accumulate(weights: Tensor, values: Tensor | None, ray_indices: Tensor, offsets: Tensor) -> Tensor:
    values = None if values is None else values.contiguous()
    return bodies(weights).accumulate_forward(weights.contiguous(), values, offsets.contiguous())


@accumulate.register_fake
def _(weights, values, ray_indices, offsets):
    return weights.new_empty(offsets.shape[0] - 1, 1 if values is None else values.shape[1])


@operator('accumulate_backward')
def accumulate_backward(
    grad: Tensor, weights: Tensor, values: Tensor | None, offsets: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    values = None if values is None else values.contiguous()
    inputs = (grad.contiguous(), weights.contiguous(), values, offsets.contiguous())
    results = bodies(weights).accumulate_backward(*inputs, tuple(needs))
    return tuple(weights.new_empty(0) if result is None else result for result in results)


@accumulate_backward.register_fake
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
        results = accumulate_backward(grad, weights, values, offsets, needs)
    return (*(result if need else None for result, need in zip(results, needs, strict=True)), None, None)


accumulate.register_autograd(_accumulate_gradients, setup_context=_save_accumulate)
