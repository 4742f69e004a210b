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

"""Hash grid on the CPU: the kernels of ``csrc/hash_grid.cpp``."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.buffers import Buffers
from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32
from nemo_dreamfusion.ops.hash_grid import GridLayout

LARGE = 2**18  # numbers; malloc has smaller memory at hand without page faults
gradients, encodings = Buffers(), Buffers(slack=1.25)


class Grid(ctypes.Structure):
    """``struct Grid`` of csrc/hash_grid.cpp."""

    _fields_ = [
        ('levels', ctypes.c_int64),
        ('features', ctypes.c_int64),
        ('smoothstep', ctypes.c_int64),
        ('resolutions', ctypes.c_void_p),
        ('offsets', ctypes.c_void_p),
        ('hashed', ctypes.c_void_p),
    ]
    arrays: list[ctypes.Array]  # what the pointers point to


@functools.lru_cache(maxsize=64)
def make_grid(layout: GridLayout) -> Grid:
    given = (layout.resolutions, layout.offsets, layout.hashed)
    arrays = [(ctypes.c_int64 * len(values))(*values) for values in given]
    pointers = (ctypes.addressof(array) for array in arrays)
    made = Grid(layout.levels, layout.features, layout.smooth, *pointers)
    made.arrays = arrays  # keeps them alive
    return made


def hash_grid_forward(positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    shape = (len(positions), layout.width)
    out = encodings.take(*shape) if shape[0] * shape[1] >= LARGE else empty_float32(*shape)
    call('hash_grid_forward', make_grid(layout), positions, table, out, len(positions))
    return out


def hash_grid_backward_table(grad: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    grad_table = gradients.take(layout.rows, layout.features)
    call('hash_grid_backward_table', make_grid(layout), grad, positions, grad_table, len(positions))
    return grad_table


def hash_grid_backward_positions(grad: Tensor, positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    grad_positions = torch.empty_like(positions)
    call('hash_grid_backward_positions', make_grid(layout), grad, positions, table, grad_positions, len(positions))
    return grad_positions


def hash_grid_double_backward(
    toward: Tensor, grad: Tensor, positions: Tensor, table: Tensor, layout: GridLayout, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    grad_grad = torch.empty_like(grad) if needs[0] else None
    grad_positions = torch.empty_like(positions) if needs[1] else None
    grad_table = gradients.take(*table.shape) if needs[2] else None
    results = (grad_grad, grad_positions, grad_table)
    call('hash_grid_double_backward', make_grid(layout), toward, grad, positions, table, *results, len(positions))
    return results
