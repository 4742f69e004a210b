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

"""Adan."""

from __future__ import annotations

from torch import Tensor

from nemo_dreamfusion.ops.registered.operator import bodies, operator


@operator('adan_step', mutates=('parameter', 'exp_avg', 'exp_avg_sq', 'exp_avg_diff', 'neg_pre_grad'))
def adan_step(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    exp_avg_diff: Tensor,
    neg_pre_grad: Tensor,
    gradient_scale: Tensor,
    coefficients: list[float],
) -> None:
    tensors = (parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad)
    bodies(parameter).adan(tensors, tuple(coefficients), gradient_scale)


@adan_step.register_fake
def _(parameter, gradient, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad, gradient_scale, coefficients):
    return None
