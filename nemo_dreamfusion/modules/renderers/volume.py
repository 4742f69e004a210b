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


"""What every volume renderer does: samples along rays, field, material, images. Back ends say where and how."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nemo_dreamfusion.modules.renderers.base import DensityFunction, Renderer, Scene
from nemo_dreamfusion.modules.renderers.room import SampleBudget
from nemo_dreamfusion.modules.renderers.sampling import drop_hidden
from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.marching import march_rays
from nemo_dreamfusion.parts.build import Configurable
from nemo_dreamfusion.parts.checks import check_choice, check_positive, check_range
from nemo_dreamfusion.parts.types import (
    SHADINGS,
    SHADINGS_WITH_NORMALS,
    Light,
    RayBundle,
    RenderOutput,
    Samples,
    SampleTerms,
)


class VolumeRenderer(Configurable, Renderer):
    """Volume rendering (Max, 1995) of packed samples, in fixed steps through occupied cells.

    The step is 2 √3 bound / max_steps: ``max_steps`` samples span the box's diagonal.
    A back end keeps the occupancy and says how samples are summed.

    Args:
        bound: half the side of the box, the field's own.
        max_steps: samples along the diagonal, and the most that one ray keeps.
        grid_resolution: cells of the occupancy grid along each axis.
        update_interval: training steps between two updates of the grid.
        density_thresh: density from which a cell always counts as occupied.
        transmittance_thresh: samples behind this transmittance are dropped (0 keeps all).
        jitter_radius: how far the points for ``normals_jittered`` are moved, world units.
        samples_per_chunk: most samples at once in evaluation, bounds the memory (a ray counts as ``max_steps``).
    """

    TAKES_PADDED = True  # whether the sums of the back end pass over places without a sample

    def __init__(
        self,
        *,
        bound: float = 1.0,
        max_steps: int = 1024,
        grid_resolution: int = 128,
        update_interval: int = 16,
        density_thresh: float = 10.0,
        transmittance_thresh: float = 1e-3,
        jitter_radius: float = 0.01,
        samples_per_chunk: int = 2**18,
    ) -> None:
        super().__init__()
        self.bound = float(check_positive('model.renderer.bound', bound))
        self.max_steps = check_range('model.renderer.max_steps', max_steps, 2, 65536)
        self.step_size = 2 * math.sqrt(3) * self.bound / max_steps
        self.grid_resolution = check_range('model.renderer.grid_resolution', grid_resolution, 2, 512)
        self.update_interval = check_range('model.renderer.update_interval', update_interval, 1, 10**9)
        self.density_thresh = check_positive('model.renderer.density_thresh', density_thresh)
        self.transmittance_thresh = check_range('model.renderer.transmittance_thresh', transmittance_thresh, 0, 0.5)
        self.jitter_radius = check_range('model.renderer.jitter_radius', jitter_radius, 0)
        self.samples_per_chunk = check_range('model.renderer.samples_per_chunk', samples_per_chunk, 1, 2**30)
        self.marched, self.kept = SampleBudget(), SampleBudget()

    def occupied(self) -> Tensor:
        """Which cells may hold something: [G, G, G] bool."""
        raise NotImplementedError

    def refresh(self, density: DensityFunction, step: int, generator: torch.Generator | None) -> None:
        """Looks at the density again."""
        raise NotImplementedError

    def update(self, density: DensityFunction, step: int, generator: torch.Generator | None = None) -> None:
        """Refreshes the occupancy every ``update_interval`` steps."""
        if step % self.update_interval == 0:
            self.refresh(density, step, generator)

    @torch.no_grad()
    def samples(
        self, origins: Tensor, directions: Tensor, density: DensityFunction, generator: torch.Generator | None
    ) -> Samples:
        """Where rays [R, 3] are sampled: in occupied cells that some light still reaches."""
        jitter = None
        if self.training and generator is not None:
            jitter = torch.rand(len(origins), device=origins.device, generator=generator)
        return self.march(origins, directions, density, jitter)

    def march(self, origins: Tensor, directions: Tensor, density: DensityFunction, jitter: Tensor | None) -> Samples:
        """The samples under jitter [R], shares of a step."""
        sizes = {'bound': self.bound, 'step_size': self.step_size, 'max_samples': self.max_steps, 'jitter': jitter}
        rays = (origins, directions)
        if not (self.training and self.TAKES_PADDED and select.backend(origins) == 'triton'):
            samples = march_rays(*rays, self.occupied(), **sizes)
            return drop_hidden(samples, *rays, density, self.transmittance_thresh)
        samples = march_rays(*rays, self.occupied(), **sizes, capacity=self.marched.capacity(len(origins)))
        return drop_hidden(self.marched.fitted(samples), *rays, density, self.transmittance_thresh, self.kept)

    def weights(self, density: Tensor, samples: Samples) -> Tensor:
        """Each sample's share of its pixel: [N] -> [N]."""
        raise NotImplementedError

    def accumulate(self, weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
        """Weighted sums per ray: [N], [N, C] -> [R, C]; the sum of the weights [R, 1] for None."""
        raise NotImplementedError

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
        """See :meth:`Renderer.render`. In evaluation mode rays are rendered in chunks."""
        check_choice('shading', shading, SHADINGS)
        light_directions = _light_directions(rays, light)
        behind = scene.background(rays, generator)
        options = {
            'shading': shading,
            'ambient': light.ambient if light else 0.0,
            'with_normals': with_normals or with_jittered_normals or shading in SHADINGS_WITH_NORMALS,
            'with_jittered_normals': with_jittered_normals,
            'generator': generator,
        }
        chunk = max(1, len(rays) if self.training else self.samples_per_chunk // self.max_steps)
        pieces = zip(rays.origins.split(chunk), rays.directions.split(chunk), light_directions.split(chunk))
        parts = [self._render_rays(*piece, scene, **options) for piece in pieces]
        return _assemble(parts, behind, rays.image_shape)

    def _render_rays(
        self,
        origins: Tensor,
        directions: Tensor,
        light_directions: Tensor,
        scene: Scene,
        *,
        shading: str,
        ambient: float,
        with_normals: bool,
        with_jittered_normals: bool,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor | SampleTerms | None]:
        """Colour [R, 3] not yet over the background, opacity [R, 1], depth [R, 1], normals [R, 3] and the samples."""
        field, n_rays = scene.field, len(origins)
        samples = self.samples(origins, directions, field.density, generator)
        distance = (samples.starts + samples.ends) / 2
        along = directions[samples.ray_indices]
        positions = origins[samples.ray_indices] + distance[:, None] * along
        out = field(positions, with_albedo=shading not in ('normal', 'textureless'))
        weights = self.weights(out.density, samples)
        normals = field.normals(positions) if with_normals else None
        albedo = torch.ones_like(positions) if out.albedo is None else out.albedo
        colour = scene.material(albedo, normals, along, light_directions[samples.ray_indices], ambient, shading)
        opacity = self.accumulate(weights, None, samples, n_rays)
        depth = self.accumulate(weights, distance[:, None], samples, n_rays) / opacity.clamp(min=1e-6)
        terms = SampleTerms(weights, positions, directions=along, normals=normals)
        if with_jittered_normals:
            terms = replace(terms, normals_jittered=self._jittered_normals(positions, field.normals, generator))
        return {
            'colour': self.accumulate(weights, colour, samples, n_rays),
            'opacity': opacity,
            'depth': depth,
            'normals': self.accumulate(weights, normals, samples, n_rays) if with_normals else None,
            'samples': terms,
        }

    def _jittered_normals(self, positions: Tensor, normals, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(positions.shape, device=positions.device, generator=generator)
        return normals((positions + noise * self.jitter_radius).clamp(-self.bound, self.bound))


def _light_directions(rays: RayBundle, light: Light | None) -> Tensor:
    """Unit vectors toward the light, one per ray: [R, 3]. Without a light, each ray is lit from its own camera."""
    if light is None:
        return -rays.directions
    pixels = rays.image_shape[1] * rays.image_shape[2]
    return light.direction.to(rays.directions).repeat_interleave(pixels, dim=0)


def _assemble(parts: list[dict], behind: Tensor, image_shape: tuple[int, int, int]) -> RenderOutput:
    """Joins the chunks, puts the colours over the background and folds rays into images."""

    def joined(name: str) -> Tensor | None:
        if parts[0][name] is None:
            return None
        values = torch.cat([part[name] for part in parts])
        return values.view(*image_shape, values.shape[-1])

    opacity = joined('opacity')
    image = joined('colour') + (1 - opacity) * behind.view(*image_shape, 3)
    # In evaluation of many rays the per-sample terms of all chunks are of no use to anybody: only one chunk keeps them.
    samples = parts[0]['samples'] if len(parts) == 1 else None
    return RenderOutput(
        image=image, opacity=opacity, depth=joined('depth'), normals=joined('normals'), samples=samples
    )
