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

"""Compositing in Triton: one ray per program, in blocks of samples. The reference implementation: ``ops/compositing.py``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SAMPLES = 128  # that a program works on at once


@triton.jit
def _depth(density, starts, ends, i, inside):
    """Return optical depths, not yet limited, and lengths; 0 outside."""
    length = tl.load(ends + i, mask=inside, other=0.0) - tl.load(starts + i, mask=inside, other=0.0)
    return tl.load(density + i, mask=inside, other=0.0) * length, length


@triton.jit
def _limited(depth):
    """Limit to THICKEST of ops/compositing.py. NaN stays NaN: the comparison is false."""
    return tl.where(depth > 100.0, 100.0, depth)


@triton.jit
def _opacity(depth):
    """Return 1 - exp(-depth), for thin samples by its series: the difference would have few digits left."""
    series = depth * (1.0 - depth * (1.0 / 2 - depth * (1.0 / 6 - depth / 24)))
    return tl.where(tl.abs(depth) < 1e-2, series, 1.0 - tl.exp(-depth))


@triton.jit
def _weights_kernel(density, starts, ends, offsets, weights, transmittance, BLOCK: tl.constexpr):
    ray = tl.program_id(0)
    first, last = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    before = 0.0
    for at in range(first, last, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = i < last
        depth = _limited(_depth(density, starts, ends, i, inside)[0])
        # Sum the depths before each sample without its own, which may be NaN.
        earlier = _limited(_depth(density, starts, ends, i - 1, inside & (i > at))[0])
        light = tl.exp(-(before + tl.cumsum(earlier, axis=0)))
        tl.store(transmittance + i, light, mask=inside)
        tl.store(weights + i, light * _opacity(depth), mask=inside)
        before += tl.sum(depth, axis=0)


@triton.jit
def _behind(grad_weights, grad_transmittance, weights, transmittance, i, inside):
    """Return what a sample adds to the gradients of those before it."""
    w, t = tl.load(weights + i, mask=inside, other=0.0), tl.load(transmittance + i, mask=inside, other=0.0)
    gw = tl.load(grad_weights + i, mask=inside, other=0.0)
    return gw * w + tl.load(grad_transmittance + i, mask=inside, other=0.0) * t


@triton.jit
def _weights_backward_kernel(
    grad_weights, grad_transmittance, density, starts, ends, offsets, weights, transmittance, grad, BLOCK: tl.constexpr
):
    ray = tl.program_id(0)
    first, last = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    behind = 0.0
    for at in range(first, last, BLOCK):
        i = at + tl.arange(0, BLOCK)
        behind += tl.sum(_behind(grad_weights, grad_transmittance, weights, transmittance, i, i < last), axis=0)
    for at in range(first, last, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = i < last
        term = _behind(grad_weights, grad_transmittance, weights, transmittance, i, inside)
        depth, length = _depth(density, starts, ends, i, inside)
        light = tl.load(transmittance + i, mask=inside, other=0.0)
        own = tl.load(grad_weights + i, mask=inside, other=0.0) * light * tl.exp(-_limited(depth))
        result = (own - (behind - tl.cumsum(term, axis=0))) * length
        tl.store(grad + i, tl.where(depth > 100.0, 0.0, result), mask=inside)
        behind -= tl.sum(term, axis=0)


@triton.jit
def _accumulate_kernel(
    weights, values, offsets, sums, grad, grad_weights, grad_values, channels,
    GIVEN: tl.constexpr, BACKWARD: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ray, c = tl.program_id(0), tl.arange(0, C)
    first, last = tl.load(offsets + ray), tl.load(offsets + ray + 1)
    total = tl.zeros([C], tl.float32)
    if BACKWARD:
        incoming = tl.load(grad + ray * channels + c, mask=c < channels, other=0.0)
    for at in range(first, last, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = (i < last)[:, None] & (c < channels)[None, :]
        where = i[:, None] * channels + c[None, :]
        weight = tl.load(weights + i, mask=i < last, other=0.0)
        value = tl.where(inside, 1.0, 0.0)
        if GIVEN:
            value = tl.load(values + where, mask=inside, other=0.0)
        if BACKWARD:
            tl.store(grad_weights + i, tl.sum(value * incoming[None, :], axis=1), mask=i < last)
            tl.store(grad_values + where, weight[:, None] * incoming[None, :], mask=inside)
        else:
            total += tl.sum(weight[:, None] * value, axis=0)
    if not BACKWARD:
        tl.store(sums + ray * channels + c, total, mask=c < channels)


def weights_forward(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    weights, transmittance = torch.empty_like(density), torch.empty_like(density)
    if len(offsets) > 1:
        _weights_kernel[(len(offsets) - 1,)](density, starts, ends, offsets, weights, transmittance, SAMPLES)
    return weights, transmittance


def weights_backward(
    grad_weights: Tensor | None,
    grad_transmittance: Tensor | None,
    density: Tensor,
    starts: Tensor,
    ends: Tensor,
    offsets: Tensor,
    weights: Tensor,
    transmittance: Tensor,
) -> Tensor:
    grad, zero = torch.empty_like(density), torch.zeros_like(density)
    given = (
        zero if grad_weights is None else grad_weights,
        zero if grad_transmittance is None else grad_transmittance,
    )
    if len(offsets) > 1:
        inputs = (*given, density, starts, ends, offsets, weights, transmittance)
        _weights_backward_kernel[(len(offsets) - 1,)](*inputs, grad, SAMPLES)
    return grad


def visible_prefix(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    return weights_forward(density, starts, ends, offsets)[1] >= threshold


def _run_accumulate(weights: Tensor, values: Tensor | None, offsets: Tensor, outputs: tuple, backward: bool) -> None:
    channels = 1 if values is None else values.shape[1]
    given = weights if values is None else values
    if len(offsets) > 1:
        _accumulate_kernel[(len(offsets) - 1,)](
            weights, given, offsets, *outputs, channels,
            values is not None, backward, triton.next_power_of_2(channels), SAMPLES,
        )  # fmt: skip


def accumulate_forward(weights: Tensor, values: Tensor | None, offsets: Tensor) -> Tensor:
    sums = weights.new_zeros(len(offsets) - 1, 1 if values is None else values.shape[1])
    _run_accumulate(weights, values, offsets, (sums, sums, sums, sums), False)
    return sums


def accumulate_backward(
    grad: Tensor, weights: Tensor, values: Tensor | None, offsets: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    grad_weights = torch.empty_like(weights)
    grad_values = torch.empty_like(weights if values is None else values)
    _run_accumulate(weights, values, offsets, (grad, grad, grad_weights, grad_values), True)
    return grad_weights if needs[0] else None, grad_values if needs[1] else None
