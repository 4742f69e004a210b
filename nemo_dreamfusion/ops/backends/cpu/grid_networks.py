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

"""A hash grid and the networks that read it on the CPU: the kernels of ``csrc/grid_networks.cpp``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.buffers import Buffers
from nemo_dreamfusion.ops.backends.cpu.hash_grid import gradients, make_grid
from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32
from nemo_dreamfusion.ops.backends.cpu.mlp import make_mlp, pointers
from nemo_dreamfusion.ops.grid_networks import KEPT_ROWS, Layers
from nemo_dreamfusion.ops.hash_grid import GridLayout

encodings = Buffers(slack=1.25)


class GridNetworks(ctypes.Structure):
    """``struct GridNetworks`` of csrc/grid_networks.cpp."""

    _fields_ = [
        ('grid', ctypes.c_void_p),
        ('open_levels', ctypes.c_int64),
        ('bound', ctypes.c_float),
        ('count', ctypes.c_int64),
        ('networks', ctypes.c_void_p),
    ]
    kept: tuple  # what the pointers point to


def _describe(layout: GridLayout, open_levels: int, bound: float, networks: Layers) -> GridNetworks:
    grid, mlps = make_grid(layout), [make_mlp(*layers) for layers in networks]
    addresses = (ctypes.c_void_p * len(mlps))(*map(ctypes.addressof, mlps))
    made = GridNetworks(ctypes.addressof(grid), open_levels, bound, len(mlps), ctypes.addressof(addresses))
    made.kept = (grid, mlps, addresses)
    return made


def _planes(points: int, layout: GridLayout) -> Tensor:
    return encodings.take(-(-points // KEPT_ROWS) * KEPT_ROWS, layout.width)


def grid_networks_forward(
    positions: Tensor, table: Tensor, layout: GridLayout, open_levels: int, bound: float, networks: Layers, keep: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the encoded points where ``keep`` asks for them, and the outputs of each network."""
    outputs = [empty_float32(len(positions), len(weights[-1])) for weights, _ in networks]
    encoded = _planes(len(positions), layout) if keep else None
    described = _describe(layout, open_levels, bound, networks)
    places = pointers(outputs, len(outputs))
    call('grid_networks_forward', described, positions, table, places, encoded, len(positions))
    return encoded, outputs


def grid_networks_backward(
    grads: Sequence[Tensor],
    positions: Tensor,
    encoded: Tensor,
    layout: GridLayout,
    open_levels: int,
    bound: float,
    networks: Layers,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the gradients of the table, of all weights and of all biases."""
    grad_table = gradients.take(layout.rows, layout.features)
    grad_weights = [torch.empty_like(t) for weights, _ in networks for t in weights]
    grad_biases = [torch.empty_like(t) for _, biases in networks for t in biases]
    places = (pointers(tensors, len(tensors)) for tensors in (grads, grad_weights, grad_biases))
    at_grads, at_weights, at_biases = places
    described = _describe(layout, open_levels, bound, networks)
    results = (grad_table, at_weights, at_biases, _planes(len(positions), layout))
    call('grid_networks_backward', described, positions, encoded, at_grads, *results, len(positions))
    return grad_table, grad_weights, grad_biases
