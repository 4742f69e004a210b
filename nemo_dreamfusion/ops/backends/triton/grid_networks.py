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
from nemo_dreamfusion.ops.hash_grid import GridLayout

MOST_WIDE = 64  # numbers before and after each layer
POINTS = 64  # that one program works on
CHUNK = 16  # columns of a product of matrices
KEPT_POINTS = 128  # the rows of the kept encoding are a multiple of this, as the kernels for the CPU keep it
SLICES = 64  # of the sums of the parameters' gradients: programs that end together rarely add to the same one

Layers = Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]  # weights [out, in] and biases [out] of each network


def _describe(networks: Layers) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
    """Return, for each layer of each network, its width before and after, and where weights and biases begin.

    That is, where in one array that holds all weights and then all biases: a kernel takes no lists of varying length.
    """
    at_weight, at_bias = 0, sum(w.numel() for weights, _ in networks for w in weights)
    described = []
    for weights, _ in networks:
        layers = []
        for after, before in (w.shape for w in weights):
            layers.append((before, after, at_weight, at_bias))
            at_weight, at_bias = at_weight + before * after, at_bias + after
        described.append(tuple(layers))
    return tuple(described)


def _parameters(networks: Layers) -> list[Tensor]:
    return [w for weights, _ in networks for w in weights] + [b for _, biases in networks for b in biases]


@triton.jit
def _unit(positions, p, axis: tl.constexpr, n, bound, scale):
    return (tl.load(positions + 3 * p + axis, mask=p < n, other=0.0) + bound) * scale


@triton.jit
def _encode(
    positions, table, levels, first_level, p, n, bound, scale, open_levels,
    F: tl.constexpr, CHUNK: tl.constexpr, SMOOTH: tl.constexpr,
):  # fmt: skip
    """Return CHUNK features of points p [BLOCK, 1], from a level on; zero from level ``open_levels`` on."""
    level = first_level + tl.arange(0, CHUNK // F)[None, :]
    is_open = level < open_levels
    resolution = tl.load(levels + 3 * level, mask=is_open, other=1).to(tl.int32)
    first = tl.load(levels + 3 * level + 1, mask=is_open, other=0)
    mask = tl.load(levels + 3 * level + 2, mask=is_open, other=0)
    cx, x, _, _ = place_in_cell(_unit(positions, p, 0, n, bound, scale), resolution, SMOOTH)
    cy, y, _, _ = place_in_cell(_unit(positions, p, 1, n, bound, scale), resolution, SMOOTH)
    cz, z, _, _ = place_in_cell(_unit(positions, p, 2, n, bound, scale), resolution, SMOOTH)
    f = tl.arange(0, F)[None, None, :]
    wanted = ((p < n) & is_open)[:, :, None] & (f < F)
    total = tl.zeros([p.shape[0], CHUNK // F, F], tl.float32)
    for corner in tl.static_range(8):
        i, j, k = corner & 1, corner >> 1 & 1, corner >> 2
        row = first + corner_row(cx + i, cy + j, cz + k, resolution, mask)
        weight = (x if i else 1.0 - x) * (y if j else 1.0 - y) * (z if k else 1.0 - z)
        total += weight[:, :, None] * tl.load(table + row[:, :, None] * F + f, mask=wanted, other=0.0)
    return tl.reshape(total, [p.shape[0], CHUNK])


@triton.jit
def _linear(inputs, parameters, chunk: tl.constexpr, LAYER: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Return one chunk of a layer's outputs [BLOCK, CHUNK] for all chunks of its inputs; zero where there is no output."""
    BEFORE: tl.constexpr = LAYER[0]
    AFTER: tl.constexpr = LAYER[1]
    o = chunk * CHUNK + tl.arange(0, CHUNK)[None, :]
    biases = tl.load(parameters + LAYER[3] + o, mask=o < AFTER, other=0.0)
    total = tl.zeros(inputs[0].shape, tl.float32)
    for part in tl.static_range(len(inputs)):
        i = part * CHUNK + tl.arange(0, CHUNK)[:, None]
        weights = tl.load(parameters + LAYER[2] + o * BEFORE + i, mask=(i < BEFORE) & (o < AFTER), other=0.0)
        total = tl.dot(inputs[part], weights, total, input_precision=PRECISION)
    return total + biases


@triton.jit
def _hidden_layer(inputs, parameters, LAYER: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Return all chunks of a layer's outputs, after the ReLU."""
    outputs = ()
    for chunk in tl.static_range((LAYER[1] + CHUNK - 1) // CHUNK):
        outputs = outputs + (tl.maximum(_linear(inputs, parameters, chunk, LAYER, CHUNK, PRECISION), 0.0),)
    return outputs


@triton.jit
def _apply_network(
    features, parameters, out, p, n, LAYERS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr
):
    """Store the outputs of one network for the features of a block of points: out [n, after the last layer]."""
    LAST: tl.constexpr = LAYERS[len(LAYERS) - 1]
    hidden = features
    for layer in tl.static_range(len(LAYERS) - 1):
        hidden = _hidden_layer(hidden, parameters, LAYERS[layer], CHUNK, PRECISION)
    for chunk in tl.static_range((LAST[1] + CHUNK - 1) // CHUNK):
        last = _linear(hidden, parameters, chunk, LAST, CHUNK, PRECISION)
        o = chunk * CHUNK + tl.arange(0, CHUNK)[None, :]
        tl.store(out + p.to(tl.int64) * LAST[1] + o, last, mask=(p < n) & (o < LAST[1]))


@triton.jit
def _forward_kernel(
    positions, table, parameters, levels, encoded, outputs, n, bound, scale, open_levels,
    NETWORKS: tl.constexpr, WIDTH: tl.constexpr, F: tl.constexpr, SMOOTH: tl.constexpr,
    KEEP: tl.constexpr, PRECISION: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Encode a block of points, into encoded [n, WIDTH] where KEEP, and apply each network: outputs[network] [n, after]."""
    p = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    features = ()
    for chunk in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
        level = chunk * (CHUNK // F)
        part = _encode(positions, table, levels, level, p, n, bound, scale, open_levels, F, CHUNK, SMOOTH)
        features = features + (part,)
        if KEEP:
            column = chunk * CHUNK + tl.arange(0, CHUNK)[None, :]
            tl.store(encoded + p.to(tl.int64) * WIDTH + column, part, mask=(p < n) & (column < WIDTH))
    for network in tl.static_range(len(NETWORKS)):
        _apply_network(features, parameters, outputs[network], p, n, NETWORKS[network], CHUNK, PRECISION)


@triton.jit
def _load_chunks(values, p, n, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Return the rows p [BLOCK, 1] of values [n, WIDTH] in chunks of columns; zero where there are none."""
    chunks = ()
    for chunk in tl.static_range((WIDTH + CHUNK - 1) // CHUNK):
        column = chunk * CHUNK + tl.arange(0, CHUNK)[None, :]
        part = tl.load(values + p.to(tl.int64) * WIDTH + column, mask=(p < n) & (column < WIDTH), other=0.0)
        chunks = chunks + (part,)
    return chunks


@triton.jit
def _layer_gradients(
    grads, inputs, parameters, sums, LAYER: tl.constexpr, RELU: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr
):
    """Add the gradients of one layer's weights and biases to sums; return that of its inputs, before the ReLU if RELU."""
    BEFORE: tl.constexpr = LAYER[0]
    AFTER: tl.constexpr = LAYER[1]
    for chunk in tl.static_range(len(grads)):
        o = chunk * CHUNK + tl.arange(0, CHUNK)
        tl.atomic_add(sums + LAYER[3] + o, tl.sum(grads[chunk], axis=0), mask=o < AFTER, sem='relaxed')
    results = ()
    for part in tl.static_range(len(inputs)):
        i = part * CHUNK + tl.arange(0, CHUNK)[None, :]
        total = tl.zeros(inputs[0].shape, tl.float32)
        for chunk in tl.static_range(len(grads)):
            o = chunk * CHUNK + tl.arange(0, CHUNK)[:, None]
            place, there = LAYER[2] + o * BEFORE + i, (i < BEFORE) & (o < AFTER)
            weights = tl.load(parameters + place, mask=there, other=0.0)
            total = tl.dot(grads[chunk], weights, total, input_precision=PRECISION)
            for_weights = tl.dot(tl.trans(grads[chunk]), inputs[part], input_precision=PRECISION)
            tl.atomic_add(sums + place, for_weights, mask=there, sem='relaxed')
        if RELU:
            total = tl.where(inputs[part] > 0, total, 0.0)
        results = results + (total,)
    return results


@triton.jit
def _network_gradients(
    features, grad, parameters, sums, p, n, LAYERS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr
):
    """Add the gradients of a network's weights and biases to sums; return that of the features, in chunks."""
    inputs = (features,)  # of each layer, computed again
    for layer in tl.static_range(len(LAYERS) - 1):
        inputs = inputs + (_hidden_layer(inputs[layer], parameters, LAYERS[layer], CHUNK, PRECISION),)
    grads = _load_chunks(grad, p, n, LAYERS[len(LAYERS) - 1][1], CHUNK)
    for layer in tl.static_range(len(LAYERS) - 1, -1, -1):
        grads = _layer_gradients(grads, inputs[layer], parameters, sums, LAYERS[layer], layer > 0, CHUNK, PRECISION)
    return grads


@triton.jit
def _backward_kernel(
    grads, encoded, parameters, grad_encoded, sums, n, open_columns,
    NETWORKS: tl.constexpr, WIDTH: tl.constexpr, TOTAL: tl.constexpr, SLICES: tl.constexpr,
    PRECISION: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store grad_encoded [n, WIDTH] and add the gradients of all parameters to one slice of sums [SLICES, TOTAL]."""
    p = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    own = sums + tl.program_id(0) % SLICES * TOTAL
    features = _load_chunks(encoded, p, n, WIDTH, CHUNK)
    total = _network_gradients(features, grads[0], parameters, own, p, n, NETWORKS[0], CHUNK, PRECISION)
    for network in tl.static_range(1, len(NETWORKS)):
        found = _network_gradients(features, grads[network], parameters, own, p, n, NETWORKS[network], CHUNK, PRECISION)
        summed = ()
        for chunk in tl.static_range(len(total)):
            summed = summed + (total[chunk] + found[chunk],)
        total = summed
    for chunk in tl.static_range(len(total)):
        column = chunk * CHUNK + tl.arange(0, CHUNK)[None, :]
        wanted = tl.where(column < open_columns, total[chunk], 0.0)
        tl.store(grad_encoded + p.to(tl.int64) * WIDTH + column, wanted, mask=(p < n) & (column < WIDTH))


def _precision() -> str:
    """Return how matrices are multiplied: in float32 unless torch may round its own to TF32."""
    return 'ieee' if torch.get_float32_matmul_precision() == 'highest' else 'tf32'


def grid_networks_forward(
    positions: Tensor, table: Tensor, layout: GridLayout, open_levels: int, bound: float, networks: Layers, keep: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the encoded points where ``keep`` asks for them, and the outputs of each network."""
    n = len(positions)
    outputs = [table.new_empty(n, len(weights[-1])) for weights, _ in networks]
    encoded = table.new_empty(triton.cdiv(n, KEPT_POINTS) * KEPT_POINTS, layout.width) if keep else None
    if n:
        parameters = torch.cat([t.reshape(-1) for t in _parameters(networks)])
        given = (positions, table, parameters, level_table(layout, positions.device), encoded if keep else table)
        sizes = (layout.width, layout.features, layout.smooth, keep, _precision(), CHUNK, POINTS)
        _forward_kernel[(triton.cdiv(n, POINTS),)](
            *given, tuple(outputs), n, bound, 1 / (2 * bound), open_levels, _describe(networks), *sizes, **EXACTLY
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
    """Return the gradients of the table, of all weights and of all biases."""
    n, parameters = len(positions), _parameters(networks)
    flat = torch.cat([t.reshape(-1) for t in parameters])
    sums, grad_encoded = flat.new_zeros(SLICES, len(flat)), encoded.new_empty(n, layout.width)
    if n:
        given = (tuple(grads), encoded, flat, grad_encoded, sums, n, open_levels * layout.features)
        sizes = (layout.width, len(flat), SLICES, _precision(), CHUNK, POINTS)
        _backward_kernel[(triton.cdiv(n, POINTS),)](*given, _describe(networks), *sizes)
    grad_table = hash_grid_backward_table(grad_encoded, (positions + bound) * (1 / (2 * bound)), layout)
    found = [torch.empty_like(t) for t in parameters]
    parts = sums.sum(0).split([t.numel() for t in parameters])
    torch._foreach_copy_(found, [part.view_as(t) for part, t in zip(parts, parameters, strict=True)])
    count = len(parameters) // 2
    return grad_table, found[:count], found[count:]
