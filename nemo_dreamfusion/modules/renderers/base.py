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


"""The contract of all renderers, and the scene that they render."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.materials.base import Material
from nemo_dreamfusion.modules.nerf.base import RadianceField, Surface
from nemo_dreamfusion.parts.types import Light, RayBundle, RenderOutput, Shading

DensityFunction = Callable[[Tensor], Tensor]  # positions [N, 3] -> density [N]


@dataclass(frozen=True)
class Scene:
    """What is rendered: an argument of :meth:`Renderer.render`, never kept by the renderer."""

    field: RadianceField
    material: Material
    background: Background


class Renderer(nn.Module):
    """Renders images of a scene along rays.

    Attributes:
        surface: the triangles that it draws, coloured by the scene's field; None where it draws the field as a volume.
    """

    surface: Surface | None

    def __init__(self) -> None:
        super().__init__()
        self.surface = None

    def render(
        self,
        rays: RayBundle,
        scene: Scene,
        *,
        shading: Shading = 'albedo',
        light: Light | None = None,
        with_normals: bool = False,
        with_jittered_normals: bool = False,
        generator: torch.Generator | None = None,
    ) -> RenderOutput:
        """Render all rays.

        Args:
            rays: R = B * H * W rays.
            scene: field, material and background.
            shading: one of ``SHADINGS``; all but albedo need normals, which are then computed.
            light: for lambertian, phong and textureless; None lights from each camera.
            with_normals: fill ``normals`` and ``samples.normals`` whatever the shading.
            with_jittered_normals: fill ``samples.normals_jittered`` too.
            generator: source of the jitter in training mode; None gives unjittered samples.

        Raises:
            ValueError: for an unknown shading.
        """
        raise NotImplementedError

    def update(self, density_fn: DensityFunction, step: int, generator: torch.Generator | None = None) -> None:
        """Refresh the acceleration structure, if there is one; called before each training step.

        Args:
            density_fn: positions [N, 3] -> density [N], the field's.
            step: from 0.
            generator: source of the points at which the density is evaluated; None takes fixed ones.
        """

    def count_dropped_steps(self) -> int:
        """Return how many training steps of this process rendered without some of their rays, for want of memory."""
        return 0


def light_directions(rays: RayBundle, light: Light | None) -> Tensor:
    """Return unit vectors toward the light, one per ray: [R, 3]. Without a light each ray is lit from its own camera."""
    if light is None:
        return -rays.directions
    pixels = rays.image_shape[1] * rays.image_shape[2]
    return light.direction.to(rays.directions).repeat_interleave(pixels, dim=0)
