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

"""The contract of all materials."""

from __future__ import annotations

from torch import Tensor, nn

from nemo_dreamfusion.parts.types import Shading


class Material(nn.Module):
    """Shades N points; it knows nothing of images or rays."""

    def forward(
        self,
        albedo: Tensor,  # [N, 3] in [0, 1]
        normals: Tensor | None,  # [N, 3] unit, out of the object; None is allowed for 'albedo'
        directions: Tensor,  # [N, 3] unit, from the camera into the scene
        light_direction: Tensor,  # [N, 3] unit, from the object toward the light
        ambient: float,  # share of light that comes from everywhere, in [0, 1]
        shading: Shading,
    ) -> Tensor:
        """Return the colour [N, 3] in [0, 1]."""
        raise NotImplementedError
