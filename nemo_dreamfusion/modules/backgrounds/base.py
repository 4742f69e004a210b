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

"""The contract of all backgrounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nemo_dreamfusion.parts.checks import check_range, refuse
from nemo_dreamfusion.parts.types import RayBundle


class Background(nn.Module):
    """The colour behind the object, for each ray."""

    def forward(self, rays: RayBundle, generator: torch.Generator | None = None) -> Tensor:
        """Return the colour [R, 3] in [0, 1]; ``generator`` is the source of what is random in training."""
        raise NotImplementedError

    def uniform(self) -> Tensor | None:
        """Return the colour [3] that every ray has in evaluation; None where the rays differ."""
        return None


def fixed_color(name: str, color: Sequence[float]) -> Tensor:
    """Return an RGB colour [3], or refuse it as the setting ``name``.

    >>> fixed_color('model.background.color', [1, 0.5, 0])
    tensor([1.0000, 0.5000, 0.0000])
    """
    if isinstance(color, str) or not isinstance(color, Sequence) or len(color) != 3:
        refuse(name, color, 'three numbers [red, green, blue], each from 0 to 1')
    return torch.tensor([float(check_range(name, value, 0, 1)) for value in color])
