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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nemo_dreamfusion.modules.renderers.base import DensityFunction, Renderer, Scene, light_directions
from nemo_dreamfusion.modules.renderers.samplers import RaySampler
from nemo_dreamfusion.ops.rays import positions_on_rays, values_of_rays
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
    Shading,
)


@dataclass(frozen=True)
class _Options:
    """What a render asks for, beside rays and scene."""

    shading: Shading
    ambient: float
    with_normals: bool
    with_jittered_normals: bool
    generator: torch.Generator | None


@dataclass(frozen=True)
class _RenderedRays:
    """The sums along R rays, not yet over the background."""

    color: Tensor  # [R, 3]
    opacity: Tensor  # [R, 1]
    depth: Tensor  # [R, 1]
    depth_variance: Tensor  # [R, 1]
    normals: Tensor | None  # [R, 3]
    samples: SampleTerms


class VolumeRenderer(Configurable, Renderer):
    """Volume rendering (Max, 1995) of packed samples, in fixed steps through occupied cells.

    The step is 2 √3 bound / max_steps: ``max_steps`` samples span the box's diagonal.
    A back end keeps the occupancy and says how samples are weighted and summed.

    Args:
        bound: half the side of the box, the field's own.
        max_steps: samples along the diagonal, and the most that one ray keeps.
        grid_resolution: cells of the occupancy grid along each axis.
        update_interval: training steps between two updates of the grid.
        density_thresh: density from which a cell is always occupied.
        transmittance_thresh: samples behind this transmittance are dropped; 0 keeps all.
        jitter_radius: how far the points for ``normals_jittered`` are moved, world units.
        samples_per_chunk: most samples at once in evaluation, bounds the memory (a ray counts as ``max_steps``).

    Raises:
        ValueError: for a value that is out of range.
    """

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
        self.sampler = RaySampler(
            bound=self.bound,
            step_size=self.step_size,
            max_samples=self.max_steps,
            transmittance_thresh=self.transmittance_thresh,
        )

    @property
    def occupied(self) -> Tensor:
        """Which cells may hold something: [G, G, G] bool, indexed [x, y, z]."""
        raise NotImplementedError

    def refresh(self, density_fn: DensityFunction, step: int, generator: torch.Generator | None) -> None:
        """Evaluate the density again to find out which cells are occupied."""
        raise NotImplementedError

    def weights(self, density: Tensor, samples: Samples) -> Tensor:
        """Return each sample's share of its pixel: density [N] -> [N], 0 for samples of length 0."""
        raise NotImplementedError

    def accumulate(self, weights: Tensor, values: Tensor | None, samples: Samples, n_rays: int) -> Tensor:
        """Return the weighted sums per ray: [N], [N, C] -> [R, C]; for None the sum of the weights [R, 1]."""
        raise NotImplementedError

    def sample(
        self,
        origins: Tensor,
        directions: Tensor,
        density_fn: DensityFunction,
        jitter: Tensor | None,
        *,
        leave_hidden: bool = False,
    ) -> Samples:
        """Return the samples of rays [R, 3] under jitter [R], shares of a step.

        With ``leave_hidden`` those behind spent light may be among them: ``with_hidden`` says so.
        """
        return self.sampler.sample(
            origins,
            directions,
            self.occupied,
            density_fn,
            jitter=jitter,
            training=self.training,
            leave_hidden=leave_hidden,
        )

    def update(self, density_fn: DensityFunction, step: int, generator: torch.Generator | None = None) -> None:
        """Refresh the occupancy every ``update_interval`` steps."""
        if step % self.update_interval == 0:
            self.refresh(density_fn, step, generator)

    def count_dropped_steps(self) -> int:
        return self.sampler.count_dropped_steps()

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
        check_choice('shading', shading, SHADINGS)
        toward_light = light_directions(rays, light)
        background = scene.background(rays, generator)
        options = _Options(
            shading=shading,
            ambient=light.ambient if light else 0.0,
            with_normals=with_normals or with_jittered_normals or shading in SHADINGS_WITH_NORMALS,
            with_jittered_normals=with_jittered_normals,
            generator=generator,
        )
        # In evaluation mode rays are rendered in chunks, which bounds the memory.
        chunk = max(1, len(rays) if self.training else self.samples_per_chunk // self.max_steps)
        pieces = zip(rays.origins.split(chunk), rays.directions.split(chunk), toward_light.split(chunk))
        parts = [self._render_rays(*piece, scene, options) for piece in pieces]
        return _assemble(parts, background, rays.image_shape)

    def _render_rays(
        self, origins: Tensor, directions: Tensor, toward_light: Tensor, scene: Scene, options: _Options
    ) -> _RenderedRays:
        field, n_rays = scene.field, len(origins)
        with torch.no_grad():
            jitter = self._jitter(origins, options.generator)
            once = self.training and not options.with_normals  # normals cost too much where nothing is seen
            samples = self.sample(origins, directions, field.density, jitter, leave_hidden=once)
        distance = samples.middles
        along = values_of_rays(directions, samples)
        positions = positions_on_rays(origins, directions, distance, samples)
        out = field(positions, with_albedo=options.shading not in ('normal', 'textureless'))
        weights = self.weights(self.sampler.hide(out.density, samples), samples)
        normals = field.normals(positions) if options.with_normals else None
        albedo = torch.ones_like(positions) if out.albedo is None else out.albedo
        color = scene.material(
            albedo, normals, along, values_of_rays(toward_light, samples), options.ambient, options.shading
        )
        opacity = self.accumulate(weights, None, samples, n_rays)
        powers = torch.stack([distance, distance.square()], -1)
        depth, squared = (self.accumulate(weights, powers, samples, n_rays) / opacity.clamp(min=1e-6)).split(1, -1)
        terms = SampleTerms(weights, positions, directions=along, normals=normals)
        if options.with_jittered_normals:
            terms = replace(terms, normals_jittered=field.normals(self._jittered(positions, options.generator)))
        return _RenderedRays(
            color=self.accumulate(weights, color, samples, n_rays),
            opacity=opacity,
            depth=depth,
            depth_variance=(squared - depth.square()).clamp(min=0),
            normals=None if normals is None else self.accumulate(weights, normals, samples, n_rays),
            samples=terms,
        )

    def _jitter(self, origins: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Draw which share of a step each ray's samples are moved in training mode: [R]."""
        if not self.training or generator is None:
            return None
        return torch.rand(len(origins), device=origins.device, generator=generator)

    def _jittered(self, positions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Move positions [N, 3] by Gaussian noise, within the box."""
        noise = torch.randn(positions.shape, device=positions.device, generator=generator)
        return (positions + noise * self.jitter_radius).clamp(-self.bound, self.bound)


def _assemble(parts: list[_RenderedRays], background: Tensor, image_shape: tuple[int, int, int]) -> RenderOutput:
    """Join the chunks, composite the colours over the background [R, 3] and fold rays into images."""

    def fold(values: list[Tensor]) -> Tensor:
        joined = torch.cat(values)
        return joined.view(*image_shape, joined.shape[-1])

    opacity = fold([part.opacity for part in parts])
    normals = [part.normals for part in parts if part.normals is not None]
    return RenderOutput(
        image=fold([part.color for part in parts]) + (1 - opacity) * fold([background]),
        opacity=opacity,
        depth=fold([part.depth for part in parts]),
        depth_variance=fold([part.depth_variance for part in parts]),
        normals=fold(normals) if normals else None,
        samples=parts[0].samples if len(parts) == 1 else None,  # nobody reads those of a chunked evaluation
    )
