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

"""Convolutions of small frozen networks on a CPU, their weights laid out for oneDNN once and not at every call.

torch lets oneDNN reorder the weights of a convolution whenever it runs, which in a network of small pictures costs as much
as a part of the arithmetic, and leaves convolutions of 1x1 on one thread to a slower way of its own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

MOST_WEIGHTS = 2**25  # numbers: a second copy of them is kept
_Geometry = tuple[list[int], list[int], list[int]]  # padding, stride, dilation


def pack_convolutions(network: nn.Module) -> None:
    """Let the convolutions of a frozen float32 network on the CPU keep their weights as oneDNN wants them.

    Nothing changes for a network elsewhere, in another precision, or so large that arithmetic is what counts; results
    change by rounding. Gradients flow to inputs alone.
    """
    weights = list(network.parameters())
    small = sum(w.numel() for w in weights) <= MOST_WEIGHTS
    plain = all(w.device.type == 'cpu' and w.dtype == torch.float32 and not w.requires_grad for w in weights)
    if not (small and plain and _can_pack()):
        return
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == 'zeros':
            if not isinstance(layer.padding, str):
                layer.__class__ = PackedConv2d


class PackedConv2d(nn.Conv2d):
    """A frozen convolution that remembers its weight as oneDNN wants it for each size of input."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve [B, C, H, W]."""
        if input.dtype != torch.float32 or input.device.type != 'cpu' or torch.compiler.is_compiling():
            return super().forward(input)
        if torch.is_grad_enabled() and input.requires_grad:
            return _Convolution.apply(input, self)
        return self.convolve(input)

    def convolve(self, input: Tensor) -> Tensor:
        """Convolve without a gradient."""
        geometry: _Geometry = (self._paddings(), list(self.stride), list(self.dilation))
        return _run(self._packed('forward', input.shape, self.weight, *geometry), input, self.bias, *geometry)

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient of inputs [B, C, H, W]: a convolution with the weight turned around, where strides are 1."""
        rest = [k - 1 - p for k, p in zip(self.kernel_size, self._paddings(), strict=True)]
        if self.stride != (1, 1) or self.dilation != (1, 1) or min(rest) < 0:
            options = (self.stride, self._paddings(), self.dilation, self.groups)
            return conv2d_input(shape, self.weight, grad, *options)
        geometry: _Geometry = (rest, [1, 1], [1, 1])
        key = ('backward', self.weight._version, *grad.shape)
        turned = self.weight if key in self._layouts else self.weight.flip(2, 3).transpose(0, 1).contiguous()
        return _run(self._packed('backward', grad.shape, turned, *geometry), grad, None, *geometry)

    def _paddings(self) -> list[int]:
        return [int(padding) for padding in self.padding]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file takes: all but the layouts, which torch neither copies nor saves."""
        return {name: value for name, value in self.__dict__.items() if name != '_layouts'}

    @functools.cached_property
    def _layouts(self) -> dict[tuple, Tensor]:
        return {}

    def _packed(self, way: str, shape: torch.Size, weight: Tensor, *geometry: list[int]) -> Tensor:
        key = (way, self.weight._version, *shape)  # a weight that is written to is packed anew
        if key not in self._layouts:
            self._layouts[key] = _pack(weight, list(shape), *geometry)
        return self._layouts[key]


class _Convolution(torch.autograd.Function):
    """A convolution by a frozen weight, differentiable once with respect to its input."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: PackedConv2d) -> Tensor:
        ctx.layer, ctx.shape = layer, input.shape
        return layer.convolve(input)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.input_gradient(grad, ctx.shape), None


def _pack(weight: Tensor, shape: list[int], padding: list[int], stride: list[int], dilation: list[int]) -> Tensor:
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # where torch's own compiler gets such weights from
    return reorder(weight.detach().to_mkldnn(), padding, stride, dilation, 1, shape)


def _run(
    packed: Tensor, input: Tensor, bias: Tensor | None, padding: list[int], stride: list[int], dilation: list[int]
) -> Tensor:
    # the last three arguments: no activation behind it
    return torch.ops.mkldnn._convolution_pointwise(input, packed, bias, padding, stride, dilation, 1, 'none', [], '')


@functools.cache
def _can_pack() -> bool:
    """Return whether this release of torch has the functions, and they give what a convolution gives."""
    try:
        given, weight = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3)
        geometry: _Geometry = ([1, 1], [1, 1], [1, 1])
        found = _run(_pack(weight, [1, 2, 4, 4], *geometry), given, None, *geometry)
        return torch.allclose(found, torch.nn.functional.conv2d(given, weight, padding=1))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # private functions, and not in every build
        return False
