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
"""Draw the triangles of a surface, coloured by the scene's field: the mesh stage's renderer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.modules.nerf.base import Surface
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene, light_directions
from nemo_dreamfusion.modules.renderers.triangles import to_clip, vertex_normals
from nemo_dreamfusion.ops.rasterisers import make_rasteriser
from nemo_dreamfusion.parts.build import Configurable
from nemo_dreamfusion.parts.checks import check_choice, check_positive, refuse
from nemo_dreamfusion.parts.types import (
    SHADINGS,
    SHADINGS_WITH_NORMALS,
    Light,
    RayBundle,
    RenderOutput,
    SampleTerms,
    Shading,
)


class MeshRenderer(Configurable, Renderer):
    """Rasterises a surface; each pixel's albedo is the field's at the point of the surface that it sees.

    Positions, normals and coverage pass gradients to the surface (Laine et al., 2020; the silhouettes by
    :mod:`nemo_dreamfusion.ops.antialias`), colours to the field alone: the field's density is not used. There are no samples
    along a ray, so a render's ``samples`` are the pixels that see the surface, of weight 1.

    Args:
        surface: what is drawn, and what of it is learnt.
        bound: half the side of the box, the field's own.
        rasteriser: ``own``, or ``nvdiffrast`` where that package and an NVIDIA GPU are (its licence allows research and
            evaluation only).

    Raises:
        ValueError: for a surface of another box, or an unknown rasteriser.
    """

    surface: Surface

    def __init__(self, *, surface: Surface, bound: float = 1.0, rasteriser: str = 'own') -> None:
        super().__init__()
        self.bound = float(check_positive('model.renderer.bound', bound))
        if surface.bound != self.bound:
            refuse('model.renderer.surface.bound', surface.bound, f'model.renderer.bound, {bound}')
        self.surface = surface
        self.rasteriser = make_rasteriser(rasteriser)

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
        """Render all rays; see :meth:`Renderer.render`.

        Raises:
            ValueError: for an unknown shading, rays that no cameras cast, jittered normals (a surface has none beside it),
                or, while training, a surface that has vanished.
        """
        check_choice('shading', shading, SHADINGS)
        if rays.cameras is None:
            refuse(
                'rays.cameras',
                None,
                'the cameras that cast the rays',
                'Cast them by nemo_dreamfusion.data.cameras.rays.',
            )
        if with_jittered_normals:
            refuse('with_jittered_normals', True, 'false for a mesh', 'Set model.loss.lambda_normal_smoothness_3d=0.')
        mesh = self.surface()
        if self.training and not len(mesh.faces):
            raise ValueError(
                'nothing is left of the surface, and what is gone gets no gradient: set model.optim.lr lower, or start from '
                'another object.'
            )
        clip = to_clip(mesh.vertices, rays.cameras, self.bound)
        needs_normals = with_normals or shading in SHADINGS_WITH_NORMALS
        at = [mesh.vertices, vertex_normals(mesh)] if needs_normals else [mesh.vertices]
        raster = self.rasteriser.rasterise(
            clip, mesh.faces, *rays.image_shape[1:], cull_back_faces=self.surface.closed
        )
        values = self.rasteriser.interpolate(torch.cat(at, 1), mesh.faces, raster).flatten(0, 2)
        pixel = (raster.face_ids.flatten() >= 0).nonzero()[:, 0]
        seen = values.index_select(0, pixel)
        along = rays.directions[pixel]
        normals = _facing(seen[:, 3:], along, self.surface.closed) if needs_normals else None
        color = self._shade(seen[:, :3], normals, along, light_directions(rays, light)[pixel], scene, shading, light)
        depth = ((seen[:, :3] - rays.origins[pixel]) * along).sum(-1, keepdim=True)
        layers = [color, torch.ones_like(depth), depth] + ([] if normals is None else [normals])
        channels = sum(layer.shape[1] for layer in layers)
        empty = values.new_zeros(len(values), channels)
        image = empty.index_copy(0, pixel, torch.cat(layers, 1)).view(*rays.image_shape, channels)
        image = self.rasteriser.antialias(image, raster, clip, mesh.faces)
        opacity = image[..., 3:4]
        background = scene.background(rays, generator).view(*rays.image_shape, 3)
        return RenderOutput(
            image=image[..., :3] + (1 - opacity) * background,
            opacity=opacity,
            depth=image[..., 4:5] / opacity.clamp(min=1e-6),
            normals=image[..., 5:] if needs_normals else None,
            samples=SampleTerms(torch.ones_like(depth[:, 0]), seen[:, :3], directions=along, normals=normals),
            mesh=mesh,
            depth_variance=torch.zeros_like(opacity),  # a ray meets one surface
        )

    def _shade(
        self,
        positions: Tensor,
        normals: Tensor | None,
        along: Tensor,
        toward_light: Tensor,
        scene: Scene,
        shading: Shading,
        light: Light | None,
    ) -> Tensor:
        """Return the colours [N, 3] of points of the surface."""
        albedo = torch.ones_like(positions)
        if shading not in ('normal', 'textureless'):
            found = scene.field(positions.detach().clamp(-self.bound, self.bound)).albedo
            assert found is not None  # asked for by default
            albedo = found
        return scene.material(albedo, normals, along, toward_light, light.ambient if light else 0.0, shading)


def _facing(normals: Tensor, along: Tensor, closed: bool) -> Tensor:
    """Return interpolated normals [N, 3] as unit vectors; of an open surface those of the side that is seen."""
    normals = F.normalize(normals, dim=-1, eps=1e-20)
    if closed:
        return normals
    return torch.where((normals * along).sum(-1, keepdim=True) > 0, -normals, normals)
