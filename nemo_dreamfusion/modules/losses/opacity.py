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
"""Regularisers of the opacity image."""

from __future__ import annotations

from torch import Tensor


def opacity_loss(opacity: Tensor) -> Tensor:
    """Return the mean of sqrt(opacity^2 + 0.01), smallest for empty space: [B, H, W, 1] -> scalar.

    DreamFusion (Poole et al. 2022), appendix A.2, https://arxiv.org/abs/2209.14988.

    >>> import torch
    >>> opacity_loss(torch.zeros(1, 2, 2, 1))
    tensor(0.1000)
    """
    return (opacity.square() + 0.01).sqrt().mean()  # 0.01 keeps the slope at 0 finite and gentle


def entropy_loss(opacity: Tensor) -> Tensor:
    """Return the mean binary entropy of the opacity in bits, largest for fog: [B, H, W, 1] -> scalar.

    >>> import torch
    >>> entropy_loss(torch.full((1, 2, 2, 1), 0.5))
    tensor(1.)
    """
    a = opacity.clamp(1e-5, 1 - 1e-5)  # 0 * log 0 and its slope would be NaN
    return -(a * a.log2() + (1 - a) * (1 - a).log2()).mean()


def z_variance_loss(depth_variance: Tensor, opacity: Tensor) -> Tensor:
    """Return the mean variance of the distance along the rays that hit something: [B, H, W, 1] each -> scalar.

    HiFA (Zhu et al. 2023), z-variance, https://arxiv.org/abs/2305.18766: all that a ray sees shall lie at one distance, a
    surface and not a layer of fog. Rays of an opacity below one half count as zero.

    >>> import torch
    >>> z_variance_loss(torch.tensor([0.2, 0.3]), torch.tensor([0.9, 0.1]))
    tensor(0.1000)
    """
    return (depth_variance * (opacity > 0.5)).mean()
