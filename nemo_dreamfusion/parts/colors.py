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

"""Colours as an eye sees them."""

from __future__ import annotations

import torch
from torch import Tensor

# Linear sRGB to CIE XYZ under D65 (IEC 61966-2-1), and that white
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def linear_rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert linear sRGB [..., 3] in [0, 1] to CIE L*a*b* under D65 (CIE 15:2004).

    >>> linear_rgb_to_lab(torch.ones(3, dtype=torch.float64)).round(decimals=6) + 0
    tensor([100.,   0.,   0.], dtype=torch.float64)
    """
    to_xyz = rgb.new_tensor(_XYZ)
    # Half the digits, as under autocast, would move colours to other parts of a surface
    with torch.autocast(rgb.device.type, enabled=False):
        ratio = rgb @ to_xyz.T / to_xyz.sum(1)
    f = torch.where(ratio > (6 / 29) ** 3, ratio.clamp(min=1e-9) ** (1 / 3), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
