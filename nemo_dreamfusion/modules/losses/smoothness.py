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
"""Regularisers that ask for smooth surfaces: neighbouring normals should be alike."""

from __future__ import annotations

import torch
from torch import Tensor


def normal_smoothness_2d(normals: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels, down plus across: [B, H, W, 3] -> scalar.

    >>> image = torch.zeros(1, 2, 2, 3)
    >>> image[0, 1, :, 1] = 1.0  # the lower two pixels differ from the upper two
    >>> normal_smoothness_2d(image)
    tensor(1.)
    """
    down = (normals[:, 1:] - normals[:, :-1]).square().sum(-1)  # [B, H - 1, W]
    across = (normals[:, :, 1:] - normals[:, :, :-1]).square().sum(-1)  # [B, H, W - 1]
    return down.sum() / max(down.numel(), 1) + across.sum() / max(across.numel(), 1)


def normal_smoothness_3d(weights: Tensor, normals: Tensor, normals_jittered: Tensor) -> Tensor:
    """Return the mean over the samples of |n - n'|_1, n' taken a little beside n. Scalar, 0 without samples.

    Samples of weight 0 are no part of the picture and are not counted.

    Args:
        weights: [N], each sample's share of its pixel.
        normals: [N, 3] unit.
        normals_jittered: [N, 3] unit.

    >>> weights, normals = torch.tensor([0.5, 0.1, 0.0]), torch.eye(3)
    >>> normal_smoothness_3d(weights, normals, normals.flip(1))  # |n - n'|_1 = 2, 0 and, not counted, 2
    tensor(1.)
    """
    counted = weights > 0
    differences = (normals - normals_jittered).abs().sum(-1)
    return torch.where(counted, differences, 0.0).sum() / counted.sum().clamp(min=1)
