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

"""Small fully connected networks, y = W_L relu(... relu(W_1 x + b_1) ...) + b_L.

Layers this narrow cost less in arithmetic than in the passes over memory between them: the kernels, for the CPU only, run
all layers in one pass, block by block of points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.backends.cpu import mlp as cpu_kernels
from nemo_dreamfusion.parts.build import read_options
from nemo_dreamfusion.parts.checks import check_range

MAX_LAYERS = 16  # as in csrc/mlp.cpp
# Multiplications from which one pass wins (one thread of an AVX2 machine: 0.5 times as fast as torch's layers at 2**21,
# 1.4 to 1.8 times at 2**27, forward alone and with gradients).
WORTH_ONE_PASS = 2**25


class MLP(nn.Sequential):
    """Linear maps with ReLU between them; the keys of its state are those of any ``nn.Sequential``.

    Args:
        widths: numbers per point before, between and after the maps.
        bias: whether each map adds a bias.

    >>> net = MLP([3, 64, 64, 1])
    >>> net(torch.rand(5, 3)).shape
    torch.Size([5, 1])
    """

    def __init__(self, widths: Sequence[int], *, bias: bool = True) -> None:
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:]):
            layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
        super().__init__(*layers[:-1])

    def layers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights [out, in] and the biases [out] of the maps; no biases where they add none."""
        layers = [layer for layer in self if isinstance(layer, nn.Linear)]
        return [layer.weight for layer in layers], [layer.bias for layer in layers if layer.bias is not None]

    def forward(self, inputs: Tensor) -> Tensor:
        """Map points [N, widths[0]] to [N, widths[-1]].

        All layers run in one pass where that is faster: not under autocast, and not for few points.
        """
        weights, biases = self.layers()
        products = inputs.shape[0] * sum(weight.numel() for weight in weights)
        if products < WORTH_ONE_PASS or torch.is_autocast_enabled(inputs.device.type):
            return super().forward(inputs)
        return relu_mlp(inputs, weights, biases)


@dataclass(frozen=True)
class MLPConfig:
    """Options of a small network: ``num_layers`` linear maps, ``num_hidden_dims`` wide between them."""

    num_hidden_dims: int = 64
    num_layers: int = 3
    bias: bool = True


def make_mlp(name: str, inputs: int, outputs: int, given: Mapping[str, Any] | None) -> MLP:
    """Return the network that a node of the configuration describes.

    Args:
        name: the node, for messages.
        inputs: numbers per point before the first layer.
        outputs: numbers per point behind the last.
        given: the node: keys of :class:`MLPConfig`, or None for its defaults.

    Raises:
        ValueError: for an unknown key or a value out of its range.

    >>> make_mlp('model.nerf.sigma_net_cfg', 32, 1, {'num_layers': 2, 'num_hidden_dims': 16})
    MLP(
      (0): Linear(in_features=32, out_features=16, bias=True)
      (1): ReLU()
      (2): Linear(in_features=16, out_features=1, bias=True)
    )
    """
    config = read_options(name, MLPConfig, given)
    check_range(f'{name}.num_layers', config.num_layers, 1, 16, integer=True)
    check_range(f'{name}.num_hidden_dims', config.num_hidden_dims, 1, 4096, integer=True)
    return MLP([inputs, *[config.num_hidden_dims] * (config.num_layers - 1), outputs], bias=config.bias)


def relu_mlp(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> Tensor:
    """Apply the layers of a small network.

    Args:
        inputs: [N, I].
        weights: [out, in] of each layer.
        biases: [out] of each layer, or none at all.

    Returns:
        [N, O], differentiable (twice) with respect to everything.

    >>> relu_mlp(torch.tensor([[1.0, 2.0]]), [torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[2.0, 9.0]])])
    tensor([[6.]])
    """
    if select.backend(inputs, *weights, *biases) != 'native' or len(weights) > MAX_LAYERS:
        return mlp_reference(inputs, weights, biases)
    return relu_mlp_op(inputs, list(weights), list(biases))


def mlp_reference(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> Tensor:
    """Reference implementation of :func:`relu_mlp`: torch's linear maps and ReLU, layer by layer."""
    added: Sequence[Tensor | None] = biases or [None] * len(weights)
    for weight, bias in zip(weights[:-1], added[:-1], strict=True):
        inputs = F.relu(F.linear(inputs, weight, bias))
    return F.linear(inputs, weights[-1], added[-1])


def mlp_gradients_reference(
    grad: Tensor, inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the gradients with respect to inputs, weights and biases (None where none is wanted), differentiable again."""
    with torch.enable_grad():
        outputs = mlp_reference(inputs, weights, biases)
    given = [inputs, *weights, *biases]
    wanted = [t for t in given if t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grad, create_graph=True))
    return [next(found) if t.requires_grad else None for t in given]


# The operators torch.ops.nemo_dreamfusion.relu_mlp*, on the CPU only. Gradients of gradients go through the reference.


def _contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.contiguous() for t in tensors]


@torch.library.custom_op('nemo_dreamfusion::relu_mlp', mutates_args=())
def relu_mlp_op(inputs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    return cpu_kernels.mlp_forward(inputs.contiguous(), _contiguous(weights), _contiguous(biases))


@relu_mlp_op.register_fake
def _(inputs, weights, biases):
    return inputs.new_empty(inputs.shape[0], weights[-1].shape[0])


@torch.library.custom_op('nemo_dreamfusion::relu_mlp_backward', mutates_args=())
def relu_mlp_backward_op(
    grad: Tensor, inputs: Tensor, weights: list[Tensor], biases: list[Tensor], need_inputs: bool
) -> list[Tensor]:
    grad_inputs, grad_weights, grad_biases = cpu_kernels.mlp_backward(
        grad.contiguous(), inputs.contiguous(), _contiguous(weights), _contiguous(biases), need_inputs
    )
    first = inputs.new_empty(0) if grad_inputs is None else grad_inputs  # an operator cannot return None
    return [first, *grad_weights, *grad_biases]


@relu_mlp_backward_op.register_fake
def _(grad, inputs, weights, biases, need_inputs):
    first = inputs.new_empty(inputs.shape if need_inputs else (0,))
    return [first, *(t.new_empty(t.shape) for t in (*weights, *biases))]


def _save_mlp(ctx, inputs, output):
    ctx.layers = len(inputs[1])
    ctx.save_for_backward(inputs[0], *inputs[1], *inputs[2])


def _mlp_gradients(ctx, grad):
    inputs, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.layers], parameters[ctx.layers :]
    need_inputs = ctx.needs_input_grad[0]
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        results = mlp_gradients_reference(grad, inputs, weights, biases)
    else:
        results = relu_mlp_backward_op(grad, inputs, weights, biases, need_inputs)
    first = results[0] if need_inputs else None
    return first, list(results[1 : 1 + ctx.layers]), list(results[1 + ctx.layers :])


relu_mlp_op.register_autograd(_mlp_gradients, setup_context=_save_mlp)
