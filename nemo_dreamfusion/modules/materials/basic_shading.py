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

"""The shadings of DreamFusion (Poole et al. 2022, section 3.1, https://arxiv.org/abs/2209.14988), and two for shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.parts.checks import check_choice, check_positive, check_range
from nemo_dreamfusion.parts.types import SHADINGS, Shading


class BasicShading(Material):
    """One light and a share of ambient light; no shadows.

    With light = ambient + (1 - ambient) * max(0, n . l), the shadings are:

    * ``albedo``: the albedo as it is;
    * ``lambertian``: albedo * light;
    * ``textureless``: light alone, a white object, so that the shape cannot be painted on;
    * ``phong``: lambertian plus a white highlight (1 - ambient) * specular * max(0, r . v)^shininess, clipped at 1;
    * ``normal``: the normal as a colour, (n + 1) / 2.

    Args:
        specular: strength of phong's highlight.
        shininess: its sharpness.

    Raises:
        ValueError: for a value that is out of range; on a call, for an unknown shading or missing normals.

    >>> up, down = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, -1.0, 0.0]])
    >>> shade = BasicShading()
    >>> albedo = torch.tensor([[0.8, 0.4, 0.0]])
    >>> shade(albedo, up, down, up, 0.5, 'lambertian'), shade(albedo, down, down, up, 0.5, 'lambertian')
    (tensor([[0.8000, 0.4000, 0.0000]]), tensor([[0.4000, 0.2000, 0.0000]]))
    """

    def __init__(self, *, specular: float = 0.3, shininess: float = 20.0) -> None:
        super().__init__()
        self.specular = check_range('model.material.specular', specular, 0)
        self.shininess = check_positive('model.material.shininess', shininess)

    def forward(
        self,
        albedo: Tensor,
        normals: Tensor | None,
        directions: Tensor,
        light_direction: Tensor,
        ambient: float,
        shading: Shading,
    ) -> Tensor:
        check_choice('shading', shading, SHADINGS)
        if shading == 'albedo':
            return albedo
        if normals is None:
            raise ValueError(f"shading = '{shading}' needs normals, none were given: render with with_normals=True.")
        if shading == 'normal':
            return (normals + 1) / 2
        facing = (normals * light_direction).sum(-1, keepdim=True)  # n . l: [N, 1]
        light = (1 - ambient) * facing.clamp(min=0) + ambient
        if shading == 'textureless':
            return light.expand(-1, 3)
        if shading == 'lambertian':
            return albedo * light
        return (albedo * light + (1 - ambient) * self._highlight(normals, directions, light_direction, facing)).clamp(
            max=1
        )

    def _highlight(self, normals: Tensor, directions: Tensor, light_direction: Tensor, facing: Tensor) -> Tensor:
        """Return Phong's highlight, only where the light reaches the surface: [N, 1]."""
        mirrored = 2 * facing * normals - light_direction  # r, the light's direction mirrored at the normal
        toward_eye = -(mirrored * directions).sum(-1, keepdim=True)
        strength = self.specular * toward_eye.clamp(min=0) ** self.shininess
        return torch.where(facing > 0, strength, torch.zeros_like(strength))
