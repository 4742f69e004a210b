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

"""The hash grid, and the three operators that differentiate it twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_dreamfusion.ops.registered.operator import bodies, operator

FEATURES = (1, 2, 4, 8)  # row lengths of the hash table that the compiled bodies know


def _spec(table: Tensor, resolutions: Sequence[int], offsets: Sequence[int], hashed: Sequence[bool], smooth: bool):
    return tuple(resolutions), tuple(offsets), tuple(hashed), table.shape[1], smooth


@operator('hash_grid')
def hash_grid(
    positions: Tensor, table: Tensor, resolutions: list[int], offsets: list[int], hashed: list[bool], smooth: bool
) -> Tensor:
    spec = _spec(table, resolutions, offsets, hashed, smooth)
    return bodies(table).hash_grid_forward(positions.contiguous(), table.contiguous(), spec)


@hash_grid.register_fake
def _(positions, table, resolutions, offsets, hashed, smooth):
    return table.new_empty(positions.shape[0], len(resolutions) * table.shape[1])


@operator('hash_grid_backward_table')
def hash_grid_backward_table(
    grad: Tensor, positions: Tensor, resolutions: list[int], offsets: list[int], hashed: list[bool], smooth: bool
) -> Tensor:
    spec = (tuple(resolutions), tuple(offsets), tuple(hashed), grad.shape[1] // len(resolutions), smooth)
    return bodies(grad).hash_grid_backward_table(grad.contiguous(), positions.contiguous(), spec)


@hash_grid_backward_table.register_fake
def _(grad, positions, resolutions, offsets, hashed, smooth):
    return grad.new_empty(offsets[-1], grad.shape[1] // len(resolutions))


@operator('hash_grid_backward_positions')
def hash_grid_backward_positions(
    grad: Tensor,
    positions: Tensor,
    table: Tensor,
    resolutions: list[int],
    offsets: list[int],
    hashed: list[bool],
    smooth: bool,
) -> Tensor:
    spec = _spec(table, resolutions, offsets, hashed, smooth)
    inputs = (grad.contiguous(), positions.contiguous(), table.contiguous())
    return bodies(table).hash_grid_backward_positions(*inputs, spec)


@hash_grid_backward_positions.register_fake
def _(grad, positions, table, resolutions, offsets, hashed, smooth):
    return torch.empty_like(positions, memory_format=torch.contiguous_format)


@operator('hash_grid_double_backward')
def hash_grid_double_backward(
    toward: Tensor,
    grad: Tensor,
    positions: Tensor,
    table: Tensor,
    resolutions: list[int],
    offsets: list[int],
    hashed: list[bool],
    smooth: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    spec = _spec(table, resolutions, offsets, hashed, smooth)
    inputs = (toward.contiguous(), grad.contiguous(), positions.contiguous(), table.contiguous())
    results = bodies(table).hash_grid_double_backward(*inputs, spec, tuple(needs))
    return tuple(table.new_empty(0) if result is None else result for result in results)


@hash_grid_double_backward.register_fake
def _(toward, grad, positions, table, resolutions, offsets, hashed, smooth, needs):
    shapes = (grad.shape, positions.shape, table.shape)
    return tuple(table.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needs, strict=True))


def _save_hash_grid(ctx, inputs, output):
    count = 3 if isinstance(inputs[2], Tensor) else 2
    ctx.save_for_backward(*inputs[:count])
    ctx.layout = inputs[count:]


def _hash_grid_gradients(ctx, grad):
    positions, table = ctx.saved_tensors
    need_positions, need_table = ctx.needs_input_grad[:2]
    return (
        hash_grid_backward_positions(grad, positions, table, *ctx.layout) if need_positions else None,
        hash_grid_backward_table(grad, positions, *ctx.layout) if need_table else None,
        *[None] * 4,
    )


def _backward_table_gradients(ctx, toward):
    """<toward, grad_table> is <grad, hash_grid(positions, toward)>: linear in both."""
    grad, positions = ctx.saved_tensors
    need_grad, need_positions = ctx.needs_input_grad[:2]
    return (
        hash_grid(positions, toward, *ctx.layout) if need_grad else None,
        hash_grid_backward_positions(grad, positions, toward, *ctx.layout) if need_positions else None,
        *[None] * 4,
    )


def _backward_positions_gradients(ctx, toward):
    grad, positions, table = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    results = hash_grid_double_backward(toward, grad, positions, table, *ctx.layout, needs)
    return (*(result if need else None for result, need in zip(results, needs, strict=True)), *[None] * 4)


hash_grid.register_autograd(_hash_grid_gradients, setup_context=_save_hash_grid)
hash_grid_backward_table.register_autograd(_backward_table_gradients, setup_context=_save_hash_grid)
hash_grid_backward_positions.register_autograd(_backward_positions_gradients, setup_context=_save_hash_grid)
