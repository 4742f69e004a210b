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
"""A regulariser against floaters and holes of a surface on a grid: fewer of the grid's edges should cross it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sign_change_loss(crossings: Tensor) -> Tensor:
    """Return the mean cross-entropy between each end's distance and the other end's sign: [K, 2] -> scalar, 0 without edges.

    Munkberg et al., "Extracting Triangular 3D Models, Materials, and Lighting From Images", 2022, equation 2: both ends of
    an edge that the surface crosses are drawn to the other's side, so a small part vanishes and a hole closes.

    Args:
        crossings: signed distances in cells, of different signs.

    >>> import torch
    >>> sign_change_loss(torch.tensor([[-1.0, 1.0]]))  # 2 log(1 + e)
    tensor(2.6265)
    """
    first, second = crossings.unbind(1)
    terms = F.binary_cross_entropy_with_logits(first, (second > 0).to(first), reduction='none')
    terms = terms + F.binary_cross_entropy_with_logits(second, (first > 0).to(second), reduction='none')
    return terms.sum() / max(len(crossings), 1)
