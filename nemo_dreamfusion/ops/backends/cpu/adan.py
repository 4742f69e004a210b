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

"""Adan on the CPU: the kernel of ``csrc/adan.cpp``."""

from __future__ import annotations

import ctypes

from torch import Tensor

from nemo_dreamfusion.ops.adan import AdanCoefficients
from nemo_dreamfusion.ops.backends.cpu.library import call


class Coefficients(ctypes.Structure):
    """``struct AdanCoefficients`` of csrc/adan.cpp: the fields of ours and the factor of the gradient."""

    _fields_ = [(name, ctypes.c_float) for name in (*AdanCoefficients._fields, 'gradient_scale')]


def adan_step(tensors: tuple[Tensor, ...], coefficients: AdanCoefficients, gradient_scale: Tensor) -> None:
    call('adan_step', *tensors, tensors[0].numel(), Coefficients(*coefficients, float(gradient_scale)))
