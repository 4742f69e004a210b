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

"""Two ways to ask for smooth surfaces."""

from __future__ import annotations

import torch
from torch import Tensor


def normal_smoothness_2d(normals: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels of a normal image [B, H, W, 3], down plus across. Scalar."""
    down = (normals[:, 1:] - normals[:, :-1]).square()
    across = (normals[:, :, 1:] - normals[:, :, :-1]).square()
    return sum(d.sum(-1).sum() / max(d[..., 0].numel(), 1) for d in (down, across))


def normal_smoothness_3d(normals: Tensor, normals_jittered: Tensor, exist: Tensor | None = None) -> Tensor:
    """Mean over the samples of |n - n'|_1, n' taken a little beside n: [N, 3], [N, 3]. Scalar, 0 without samples.

    With ``exist`` [N] bool, over those where it holds.
    """
    differences = (normals - normals_jittered).abs().sum(-1)
    if exist is None:
        return differences.sum() / max(len(normals), 1)
    return torch.where(exist, differences, 0.0).sum() / exist.sum().clamp(min=1)
