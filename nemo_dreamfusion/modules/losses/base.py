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


"""The contract of a set of regularisers: which run at a step, what they read of a render, and their values."""

from __future__ import annotations

from torch import Tensor, nn

from nemo_dreamfusion.parts.build import Configurable
from nemo_dreamfusion.parts.types import RenderOutput


class Losses(Configurable, nn.Module):
    """Named regularisers beside the guidance; the caller multiplies each by its weight and sums."""

    def weights(self, step: int) -> dict[str, float]:
        """Return the weight of every loss at ``step``, zeros included, by name."""
        raise NotImplementedError

    def check_renderer(self, draws_mesh: bool) -> None:
        """Refuse a renderer, one of triangles or one of a volume, whose renders lack what a loss reads at some step.

        Raises:
            ValueError: naming the weight to set.
        """

    def needs_normals(self, step: int) -> bool:
        """Return whether the render of ``step`` must hold normals."""
        raise NotImplementedError

    def needs_jittered_normals(self, step: int) -> bool:
        """Return whether the render of ``step`` must hold the normals at jittered positions too."""
        raise NotImplementedError

    def forward(self, render: RenderOutput, step: int) -> dict[str, Tensor]:
        """Return the unweighted scalars of the losses whose weight at ``step`` is above 0, by name."""
        raise NotImplementedError
