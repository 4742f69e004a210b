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

"""Adan in Triton; the reference implementation is in ``ops/adan.py``."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nemo_dreamfusion.ops.adan import AdanCoefficients

ELEMENTS = 1024  # numbers that one program works on


@triton.jit
def _adan_kernel(
    parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad, scale, n,
    beta1, beta2, beta3, step_size, step_size_diff, inverse_bias, eps, before, after, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    factor = tl.load(scale + tl.zeros([BLOCK], tl.int32))
    inside = (i < n) & (factor == factor)  # a factor of NaN leaves the step out
    g = tl.load(gradient + i, mask=inside) * factor
    difference = tl.load(neg_pre_grad + i, mask=inside) + g
    lookahead = g + beta2 * difference
    m = beta1 * tl.load(exp_avg + i, mask=inside) + (1.0 - beta1) * g
    d = beta2 * tl.load(exp_avg_diff + i, mask=inside) + (1.0 - beta2) * difference
    v = beta3 * tl.load(exp_avg_sq + i, mask=inside) + (1.0 - beta3) * lookahead * lookahead
    move = (step_size * m + step_size_diff * d) / (tl.sqrt(v) * inverse_bias + eps)
    tl.store(parameter + i, (tl.load(parameter + i, mask=inside) * before - move) * after, mask=inside)
    tl.store(exp_avg + i, m, mask=inside)
    tl.store(exp_avg_diff + i, d, mask=inside)
    tl.store(exp_avg_sq + i, v, mask=inside)
    tl.store(neg_pre_grad + i, -g, mask=inside)


def adan_step(tensors: tuple[Tensor, ...], coefficients: AdanCoefficients, gradient_scale: Tensor) -> None:
    n = tensors[0].numel()
    if n:
        _adan_kernel[(triton.cdiv(n, ELEMENTS),)](*tensors, gradient_scale, n, *coefficients, ELEMENTS)
