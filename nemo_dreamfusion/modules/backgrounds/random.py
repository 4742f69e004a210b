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

"""A new colour for each image in training, so that no part of the object can hide in the background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_dreamfusion.modules.backgrounds.base import Background, fixed_color
from nemo_dreamfusion.parts.checks import check_range
from nemo_dreamfusion.parts.types import RayBundle


class RandomBackground(Background):
    """One random colour or the fixed one for each image in training; in evaluation always the fixed one.

    Args:
        color: the fixed colour, [red, green, blue] in [0, 1].
        probability: share of the training images with a random colour.
        gray_probability: share of those whose colour is a gray.

    Raises:
        ValueError: for a color or a share outside of [0, 1].

    >>> rays = RayBundle(torch.zeros(4, 3), torch.eye(3)[[0, 1, 2, 0]], image_shape=(2, 1, 2))
    >>> background = RandomBackground(probability=1.0, gray_probability=0.0)
    >>> colors = background(rays, torch.Generator().manual_seed(0))
    >>> bool((colors[0] == colors[1]).all()), bool((colors[1] == colors[2]).all())  # two pixels for each image
    (True, False)
    >>> background.eval()(rays)[0]
    tensor([1., 1., 1.])
    """

    color: Tensor  # [3]

    def __init__(
        self,
        *,
        color: Sequence[float] = (1.0, 1.0, 1.0),
        probability: float = 0.5,
        gray_probability: float = 0.7,
    ) -> None:
        super().__init__()
        self.register_buffer('color', fixed_color('model.background.color', color), persistent=False)
        self.probability = check_range('model.background.probability', probability, 0, 1)
        self.gray_probability = check_range('model.background.gray_probability', gray_probability, 0, 1)

    def forward(self, rays: RayBundle, generator: torch.Generator | None = None) -> Tensor:
        fixed = self.color.to(rays.directions)
        if not self.training:
            return fixed.expand(len(rays), 3)
        images, height, width = rays.image_shape
        device = rays.directions.device if generator is None else generator.device
        # As many draws whatever their outcome.
        draws = torch.rand(images, 5, generator=generator, device=device).to(rays.directions)
        random = torch.where(draws[:, 4:] < self.gray_probability, draws[:, :1], draws[:, :3])
        colors = torch.where(draws[:, 3:4] < self.probability, random, fixed)  # [B, 3]
        return colors[:, None].expand(-1, height * width, -1).reshape(-1, 3)

    def uniform(self) -> Tensor:
        """Return the fixed colour [3]."""
        return self.color
