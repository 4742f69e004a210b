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

"""Small networks. Gradients of gradients go through the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import cpu as cpu_bodies
from nemo_dreamfusion.ops.registered.operator import operator


@operator('relu_mlp')
def relu_mlp(inputs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    return cpu_bodies.mlp_forward(inputs.contiguous(), *([t.contiguous() for t in ts] for ts in (weights, biases)))


@relu_mlp.register_fake
def _(inputs, weights, biases):
    return inputs.new_empty(inputs.shape[0], weights[-1].shape[0])


@operator('relu_mlp_backward')
def relu_mlp_backward(
    grad: Tensor, inputs: Tensor, weights: list[Tensor], biases: list[Tensor], need_inputs: bool
) -> list[Tensor]:
    lists = ([t.contiguous() for t in ts] for ts in (weights, biases))
    grad_inputs, *grads = cpu_bodies.mlp_backward(grad.contiguous(), inputs.contiguous(), *lists, need_inputs)
    return [inputs.new_empty(0) if grad_inputs is None else grad_inputs, *grads[0], *grads[1]]


@relu_mlp_backward.register_fake
def _(grad, inputs, weights, biases, need_inputs):
    like = {'memory_format': torch.contiguous_format}
    first = torch.empty_like(inputs, **like) if need_inputs else inputs.new_empty(0)
    return [first, *(torch.empty_like(t, **like) for t in (*weights, *biases))]


def _save_mlp(ctx, inputs, output):
    ctx.layers = len(inputs[1])
    ctx.save_for_backward(inputs[0], *inputs[1], *inputs[2])


def _mlp_gradients(ctx, grad):
    inputs, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    need_inputs = ctx.needs_input_grad[0]
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        from nemo_dreamfusion.ops.mlp import mlp_gradients_reference

        results = mlp_gradients_reference(grad, inputs, weights, biases)
    else:
        results = relu_mlp_backward(grad, inputs, weights, biases, need_inputs)
    first = results[0] if need_inputs else None
    return first, list(results[1 : 1 + ctx.layers]), list(results[1 + ctx.layers :])


relu_mlp.register_autograd(_mlp_gradients, setup_context=_save_mlp)
