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

"""Compositing on the CPU: the kernels of ``csrc/compositing.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32


def weights_forward(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    weights, transmittance = torch.empty_like(density), torch.empty_like(density)
    call('weights_forward', density, starts, ends, offsets, len(offsets) - 1, weights, transmittance)
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
    grad = torch.empty_like(density)
    inputs = (grad_weights, grad_transmittance, density, starts, ends, offsets, len(offsets) - 1)
    call('weights_backward', *inputs, weights, transmittance, grad)
    return grad


def visible_prefix(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    visible = torch.empty(len(density), dtype=torch.bool)
    call('visible_prefix', density, starts, ends, offsets, len(offsets) - 1, float(threshold), visible)
    return visible


def visible_counts(density: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    counts = torch.empty(len(offsets) - 1, dtype=torch.int64)
    call('count_visible', density, starts, ends, offsets, len(counts), float(threshold), counts)
    return counts


def accumulate_forward(weights: Tensor, values: Tensor | None, offsets: Tensor) -> Tensor:
    channels = 1 if values is None else values.shape[1]
    sums = empty_float32(len(offsets) - 1, channels)
    call('accumulate_forward', weights, values, offsets, len(offsets) - 1, channels, sums)
    return sums


def accumulate_backward(
    grad: Tensor, weights: Tensor, values: Tensor | None, offsets: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    grad_weights = torch.empty_like(weights) if needs[0] else None
    grad_values = None if values is None or not needs[1] else torch.empty_like(values)
    sizes = (len(offsets) - 1, grad.shape[1])
    call('accumulate_backward', grad, weights, values, offsets, *sizes, grad_weights, grad_values)
    return grad_weights, grad_values
