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

"""Small networks on the CPU: the kernels of ``csrc/mlp.cpp``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32


class Mlp(ctypes.Structure):
    """``struct Mlp`` of csrc/mlp.cpp."""

    _fields_ = [
        ('layers', ctypes.c_int64),
        ('widths', ctypes.c_void_p),
        ('weights', ctypes.c_void_p),
        ('biases', ctypes.c_void_p),
    ]
    arrays: list[ctypes.Array]  # what the pointers point to


def pointers(tensors: Sequence[Tensor], count: int) -> ctypes.Array:
    """Return an array of ``count`` pointers, null where there is no tensor."""
    return (ctypes.c_void_p * count)(*(t.data_ptr() for t in tensors))


def make_mlp(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Mlp:
    """Describe a network by its layers; the tensors must outlive the result."""
    widths = [weights[0].shape[1], *(len(w) for w in weights)]
    arrays = [(ctypes.c_int64 * len(widths))(*widths), *(pointers(t, len(weights)) for t in (weights, biases))]
    made = Mlp(len(weights), *(ctypes.addressof(array) for array in arrays))
    made.arrays = arrays  # keeps them alive
    return made


def mlp_forward(inputs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    outputs = empty_float32(len(inputs), len(weights[-1]))
    call('mlp_forward', make_mlp(weights, biases), inputs, outputs, len(inputs))
    return outputs


def mlp_backward(
    grad: Tensor, inputs: Tensor, weights: list[Tensor], biases: list[Tensor], need_inputs: bool
) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
    grad_inputs = torch.empty_like(inputs) if need_inputs else None
    grad_weights, grad_biases = ([torch.empty_like(t) for t in tensors] for tensors in (weights, biases))
    places = [pointers(tensors, len(weights)) for tensors in (grad_weights, grad_biases)]
    call('mlp_backward', make_mlp(weights, biases), grad, inputs, grad_inputs, *places, len(inputs))
    return grad_inputs, grad_weights, grad_biases
