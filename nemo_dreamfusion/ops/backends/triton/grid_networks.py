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

"""A hash grid and the networks that read it in Triton; the reference implementation is in ``ops/grid_networks.py``.

Networks this narrow fit into one program: its points' features and hidden activations stay in registers and shared memory
(Müller, "tiny-cuda-nn", https://github.com/NVlabs/tiny-cuda-nn, calls such networks fully fused).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from nemo_dreamfusion.ops.backends.triton.hash_grid import (
    EXACTLY,
    corner_row,
    hash_grid_backward_table,
    level_table,
    place_in_cell,
)
from nemo_dreamfusion.ops.grid_networks import KEPT_ROWS, Layers
from nemo_dreamfusion.ops.hash_grid import GridLayout

POINTS = 64  # that one program works on
SLICES = 64  # of the sums of the parameters' gradients: programs that end together rarely add to the same one


def _describe(networks: Layers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return four numbers for each layer of all networks, and the first layer of each network with the end of the last.

    The four: width before and after, and where weights and biases begin in one array that holds all weights and then all
    biases. A kernel takes no lists of varying length, and Triton 3.6 no tuples of tuples.
    """
    layers, firsts = [], [0]
    at_weight, at_bias = 0, sum(w.numel() for weights, _ in networks for w in weights)
    for weights, _ in networks:
        for after, before in (w.shape for w in weights):
            layers += [before, after, at_weight, at_bias]
            at_weight, at_bias = at_weight + before * after, at_bias + after
        firsts.append(firsts[-1] + len(weights))
    return tuple(layers), tuple(firsts)


def _parameters(networks: Layers) -> list[Tensor]:
    return [w for weights, _ in networks for w in weights] + [b for _, biases in networks for b in biases]


@triton.jit
def _unit(positions, p, axis: tl.constexpr, n, bound, scale):
    return (tl.load(positions + 3 * p + axis, mask=p < n, other=0.0) + bound) * scale


@triton.jit
def _encode(
    positions, table, levels, p, n, bound, scale, open_levels,
    F: tl.constexpr, LEVELS: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """Return the features [BLOCK, LEVELS F] of points p [1, BLOCK], zero from level ``open_levels`` on.

    Until the end points follow each other in memory order: then the lanes of a warp are neighbours, and one load brings
    the corners that they share.
    """
    level = tl.arange(0, LEVELS)[:, None]
    is_open = level < open_levels
    resolution = tl.load(levels + 3 * level, mask=is_open, other=1).to(tl.int32)
    first = tl.load(levels + 3 * level + 1, mask=is_open, other=0)
    mask = tl.load(levels + 3 * level + 2, mask=is_open, other=0)
    cx, x, _, _ = place_in_cell(_unit(positions, p, 0, n, bound, scale), resolution, SMOOTH)
    cy, y, _, _ = place_in_cell(_unit(positions, p, 1, n, bound, scale), resolution, SMOOTH)
    cz, z, _, _ = place_in_cell(_unit(positions, p, 2, n, bound, scale), resolution, SMOOTH)
    f = tl.arange(0, F)[None, None, :]
    wanted = (is_open & (p < n))[:, :, None] & (f < F)
    total = tl.zeros([LEVELS, p.shape[1], F], tl.float32)
    for corner in tl.static_range(8):
        i, j, k = corner & 1, corner >> 1 & 1, corner >> 2
        row = first + corner_row(cx + i, cy + j, cz + k, resolution, mask)
        weight = (x if i else 1.0 - x) * (y if j else 1.0 - y) * (z if k else 1.0 - z)
        total += weight[:, :, None] * tl.load(table + row[:, :, None] * F + f, mask=wanted, other=0.0)
    return tl.reshape(tl.permute(total, (1, 0, 2)), [p.shape[1], LEVELS * F])


@triton.jit
def _padded(WIDTH: tl.constexpr):
    """Return as many columns as there are, or more: products of matrices take powers of two from 16 on."""
    return tl.arange(0, 16 if WIDTH <= 16 else (32 if WIDTH <= 32 else 64))


@triton.jit
def _load_rows(values, p, n, WIDTH: tl.constexpr):
    """Return the rows p [BLOCK, 1] of values [n, WIDTH]; zero where there are none, and in padded columns."""
    column = _padded(WIDTH)[None, :]
    return tl.load(values + p.to(tl.int64) * WIDTH + column, mask=(p < n) & (column < WIDTH), other=0.0)


@triton.jit
def _layer(inputs, parameters, LAYERS: tl.constexpr, layer: tl.constexpr, PRECISION: tl.constexpr):
    """Return inputs [BLOCK, padded before] through one linear map, [BLOCK, padded after]; zero in padded columns."""
    BEFORE: tl.constexpr = LAYERS[4 * layer]
    AFTER: tl.constexpr = LAYERS[4 * layer + 1]
    i, o = tl.arange(0, inputs.shape[1])[:, None], _padded(AFTER)[None, :]
    there = (i < BEFORE) & (o < AFTER)
    weights = tl.load(parameters + LAYERS[4 * layer + 2] + o * BEFORE + i, mask=there, other=0.0)
    biases = tl.load(parameters + LAYERS[4 * layer + 3] + o, mask=o < AFTER, other=0.0)
    return tl.dot(inputs, weights, input_precision=PRECISION) + biases


@triton.jit
def _relu(x):
    return tl.where(x < 0.0, 0.0, x)  # tl.maximum would make 0 of what is not a number


@triton.jit
def _apply_network(
    features, parameters, out, p, n,
    LAYERS: tl.constexpr, FIRST: tl.constexpr, END: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Store the outputs of the layers from FIRST to END for the features of a block of points: out [n, after]."""
    AFTER: tl.constexpr = LAYERS[4 * END - 3]
    hidden = features
    for layer in tl.static_range(FIRST, END - 1):
        hidden = _relu(_layer(hidden, parameters, LAYERS, layer, PRECISION))
    last = _layer(hidden, parameters, LAYERS, END - 1, PRECISION)
    o = _padded(AFTER)[None, :]
    tl.store(out + p.to(tl.int64) * AFTER + o, last, mask=(p < n) & (o < AFTER))


@triton.jit(do_not_specialize=('n', 'open_levels'))  # one compilation, whatever they are
def _forward_kernel(
    positions, table, parameters, levels, encoded, outputs, n, bound, scale, open_levels,
    LAYERS: tl.constexpr, FIRSTS: tl.constexpr, WIDTH: tl.constexpr, F: tl.constexpr, LEVELS: tl.constexpr,
    SMOOTH: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Encode a block of points, into encoded [.., WIDTH] where KEEP, and apply networks: outputs[network] [n, after]."""
    points = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    features = _encode(positions, table, levels, points[None, :], n, bound, scale, open_levels, F, LEVELS, SMOOTH)
    p = points[:, None]
    if KEEP:  # rows after the last point too, which are zero
        column = tl.arange(0, LEVELS * F)[None, :]
        tl.store(encoded + p.to(tl.int64) * WIDTH + column, features, mask=(p >= 0) & (column < WIDTH))
    for network in tl.static_range(len(FIRSTS) - 1):
        out = outputs[network]
        _apply_network(features, parameters, out, p, n, LAYERS, FIRSTS[network], FIRSTS[network + 1], PRECISION)


@triton.jit
def _layer_gradients(
    grad, inputs, parameters, sums, LAYERS: tl.constexpr, layer: tl.constexpr, PRECISION: tl.constexpr
):
    """Add the gradients of one layer's weights and biases to sums, and return that of its inputs."""
    BEFORE: tl.constexpr = LAYERS[4 * layer]
    AFTER: tl.constexpr = LAYERS[4 * layer + 1]
    i, o = tl.arange(0, inputs.shape[1])[None, :], tl.arange(0, grad.shape[1])
    tl.atomic_add(sums + LAYERS[4 * layer + 3] + o, tl.sum(grad, axis=0), mask=o < AFTER, sem='relaxed')
    places, there = LAYERS[4 * layer + 2] + o[:, None] * BEFORE + i, (o[:, None] < AFTER) & (i < BEFORE)
    for_weights = tl.dot(tl.trans(grad), inputs, input_precision=PRECISION)
    tl.atomic_add(sums + places, for_weights, mask=there, sem='relaxed')
    return tl.dot(grad, tl.load(parameters + places, mask=there, other=0.0), input_precision=PRECISION)


@triton.jit(do_not_specialize=('n', 'open_columns'))
def _backward_kernel(
    grad, encoded, parameters, grad_encoded, sums, n, open_columns,
    LAYERS: tl.constexpr, FIRST: tl.constexpr, END: tl.constexpr, WIDTH: tl.constexpr, TOTAL: tl.constexpr,
    SLICES: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of the layers from FIRST to END for a block of points, whose activations it computes again.

    Store grad_encoded [n, WIDTH], or add to it what another network's layers before FIRST left there, and add those of the
    parameters to one slice of sums [SLICES, TOTAL].
    """
    p = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    own = sums + tl.program_id(0) % SLICES * TOTAL
    inputs = (_load_rows(encoded, p, n, WIDTH),)  # of each layer
    for layer in tl.static_range(FIRST, END - 1):
        after = _relu(_layer(inputs[layer - FIRST], parameters, LAYERS, layer, PRECISION))
        inputs = inputs + (after,)  # type: ignore[assignment]
    found = _load_rows(grad, p, n, LAYERS[4 * END - 3])
    for layer in tl.static_range(END - 1, FIRST - 1, -1):
        found = _layer_gradients(found, inputs[layer - FIRST], parameters, own, LAYERS, layer, PRECISION)
        if layer > FIRST:
            found = tl.where(inputs[layer - FIRST] <= 0.0, 0.0, found)
    column = _padded(WIDTH)[None, :]
    here, inside = grad_encoded + p.to(tl.int64) * WIDTH + column, (p < n) & (column < WIDTH)
    found = tl.where(column < open_columns, found, 0.0)
    if FIRST > 0:
        found += tl.load(here, mask=inside, other=0.0)
    tl.store(here, found, mask=inside)


def _precision() -> str:
    """Return how matrices are multiplied: as if in float32, or rounded to TF32 where torch may do so (model.tf32).

    ``tf32x3`` adds three products of tensor cores. Sums of plain float32 products (``ieee``) spill registers: see
    docs/performance.md.
    """
    return 'tf32x3' if torch.get_float32_matmul_precision() == 'highest' else 'tf32'


def _padded_levels(layout: GridLayout) -> int:
    """Return how many levels a program computes, for as many features as a product of matrices takes."""
    return max(triton.next_power_of_2(layout.levels), 16 // layout.features)


def grid_networks_forward(
    positions: Tensor, table: Tensor, layout: GridLayout, open_levels: int, bound: float, networks: Layers, keep: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the encoded points where ``keep`` asks for them, and the outputs of each network."""
    n, rows = len(positions), triton.cdiv(len(positions), KEPT_ROWS) * KEPT_ROWS
    outputs = [table.new_empty(n, len(weights[-1])) for weights, _ in networks]
    encoded = table.new_empty(rows, layout.width) if keep else None
    if n:
        levels = level_table(layout, positions.device)
        flat = torch.cat([t.reshape(-1) for t in _parameters(networks)])
        given = (positions, table, flat, levels, encoded if keep else table, tuple(outputs))
        sizes = (layout.width, layout.features, _padded_levels(layout), layout.smooth, keep, _precision(), POINTS)
        _forward_kernel[(triton.cdiv(rows if keep else n, POINTS),)](
            *given, n, bound, 1 / (2 * bound), open_levels, *_describe(networks), *sizes, **EXACTLY
        )
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
    """Return the gradients of the table, of all weights and of all biases: not the same bits each time (atomics)."""
    n, parameters = len(positions), _parameters(networks)
    flat = torch.cat([t.reshape(-1) for t in parameters])
    sums, grad_encoded = flat.new_zeros(SLICES, len(flat)), encoded.new_empty(n, layout.width)
    if n:
        layers, firsts = _describe(networks)
        for grad, first, end in zip(grads, firsts[:-1], firsts[1:], strict=True):
            given = (grad, encoded, flat, grad_encoded, sums, n, open_levels * layout.features)
            sizes = (layers, first, end, layout.width, len(flat), SLICES, _precision(), POINTS)
            _backward_kernel[(triton.cdiv(n, POINTS),)](*given, *sizes, **EXACTLY)
    grad_table = hash_grid_backward_table(grad_encoded, (positions + bound) * (1 / (2 * bound)), layout)
    found = [torch.empty_like(t) for t in parameters]
    parts = sums.sum(0).split([t.numel() for t in parameters])
    torch._foreach_copy_(found, [part.view_as(t) for part, t in zip(parts, parameters, strict=True)])
    count = len(parameters) // 2
    return grad_table, found[:count], found[count:]
