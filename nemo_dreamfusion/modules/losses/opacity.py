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

"""Regularisers of the opacity image [B, H, W, 1]."""

from __future__ import annotations

from torch import Tensor


def opacity_loss(opacity: Tensor) -> Tensor:
    """Mean of sqrt(opacity^2 + 0.01): empty space costs least (DreamFusion, appendix A.2). [B, H, W, 1] -> scalar."""
    return (opacity.square() + 0.01).sqrt().mean()  # 0.01 keeps the slope at 0 finite and gentle


def entropy_loss(opacity: Tensor) -> Tensor:
    """Mean binary entropy of the opacity, in bits: fog costs most, empty and solid nothing. [B, H, W, 1] -> scalar."""
    a = opacity.clamp(1e-5, 1 - 1e-5)  # 0 * log 0 and its slope would be NaN
    return -(a * a.log2() + (1 - a) * (1 - a).log2()).mean()
