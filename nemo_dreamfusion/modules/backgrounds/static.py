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

"""One colour, always."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_dreamfusion.modules.backgrounds.base import Background, fixed_color
from nemo_dreamfusion.parts.types import RayBundle


class StaticBackground(Background):
    """The same colour behind every pixel, in training and evaluation.

    Args:
        color: [red, green, blue] in [0, 1].

    Raises:
        ValueError: for another color.

    >>> rays = RayBundle(torch.zeros(2, 3), torch.eye(3)[:2], image_shape=(1, 1, 2))
    >>> StaticBackground(color=[0, 0, 1])(rays)
    tensor([[0., 0., 1.],
            [0., 0., 1.]])
    """

    color: Tensor  # [3]

    def __init__(self, *, color: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.register_buffer('color', fixed_color('model.background.color', color), persistent=False)

    def forward(self, rays: RayBundle, generator: torch.Generator | None = None) -> Tensor:
        return self.color.to(rays.directions).expand(len(rays), 3)

    def uniform(self) -> Tensor:
        """Return the fixed colour [3]."""
        return self.color
