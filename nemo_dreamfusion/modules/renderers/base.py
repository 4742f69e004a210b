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


"""The contract of all renderers, and the scene that they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.parts.types import Light, RayBundle, RenderOutput

DensityFunction = Callable[[Tensor], Tensor]  # positions [N, 3] -> density [N]


@dataclass(frozen=True)
class Scene:
    """What is rendered. It is passed to the renderer, never kept by it."""

    field: RadianceField
    material: Material
    background: Background


class Renderer(nn.Module):
    """Turns rays through a scene into images."""

    def render(
        self,
        rays: RayBundle,
        scene: Scene,
        *,
        shading: str = 'albedo',
        light: Light | None = None,
        with_normals: bool = False,
        with_jittered_normals: bool = False,
        generator: torch.Generator | None = None,
    ) -> RenderOutput:
        """Renders all rays.

        Args:
            rays: R = B * H * W rays.
            scene: field, material and background.
            shading: one of ``SHADINGS``; all but albedo need normals, which are then computed.
            light: needed by lambertian, phong and textureless; None lights from each camera.
            with_normals: fill ``normals`` and ``samples.normals`` whatever the shading.
            with_jittered_normals: fill ``samples.normals_jittered`` too.
            generator: source of the jitter in training mode; None gives unjittered samples.
        """
        raise NotImplementedError

    def update(self, density: DensityFunction, step: int, generator: torch.Generator | None = None) -> None:
        """Called before each training step; renderers that keep an acceleration structure refresh it here."""
