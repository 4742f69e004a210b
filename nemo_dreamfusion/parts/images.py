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

"""How alike two sets of images are: what exports, the benchmark and the training of the embedded model all measure."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST = 1e-10  # mean squared error, in squares of the span: 100 dB


def compute_psnr(images: Tensor, others: Tensor, span: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio of images of any one shape, dB; 100 at most.

    Args:
        images: values.
        others: as many.
        span: of the values: 1 where they lie in [0, 1], 2 where they lie in [-1, 1].

    >>> round(compute_psnr(torch.zeros(4), torch.full((4,), 0.1)), 3)
    20.0
    """
    error = (images.float() - others.float()).square().mean().item()
    return -10 * math.log10(max(error / span**2, _LEAST))


def compute_silhouette_iou(opacity: Tensor, other: Tensor) -> float:
    """Return the mean over views of intersection over union of two silhouettes [V, H, W]; two empty ones count as 1.

    A silhouette is where the opacity is above one half.
    """
    a, b = opacity > 0.5, other > 0.5
    intersection, union = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return torch.where(union > 0, intersection / union.clamp_min(1), 1.0).mean().item()
