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

"""An edit: the object as it was, frozen, beside the one that changes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.models.edit_options import EditOptions
from nemo_dreamfusion.models.edit_region import LOOKS, SOLID, TIMES, Looks, SurfaceParts, find_parts
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.modules.losses.field_difference import field_difference
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import CameraBatch, FieldOutput, RayBundle, RenderOutput

logger = logging.getLogger(__name__)

Part = TypeVar('Part', bound=nn.Module)

POINTS = 16384  # of a step at which the field is compared with what it was
CELLS = 64  # along each axis: the way whose opacity is compared is a cell's side


class Edit:
    """What an object was, and which part of it may change.

    It is no ``nn.Module``, so that no checkpoint, optimizer or archive holds the object twice; a run that goes on reads it
    from the archive again.

    Args:
        options: what may change.
        scene: is copied, with the renderer, as it stands.
        renderer: of the scene.
    """

    def __init__(self, options: EditOptions, scene: Scene, renderer: Renderer) -> None:
        self.options = options
        self.parts: SurfaceParts | None = None  # see find_parts
        self._scene = Scene(_frozen(scene.field), _frozen(scene.material), _frozen(scene.background))
        self._renderer: Renderer = _frozen(renderer)

    def to(self, device: torch.device) -> None:
        """Move the object as it was."""
        parts: tuple[nn.Module, ...] = (
            self._scene.field,
            self._scene.material,
            self._scene.background,
            self._renderer,
        )
        for part in parts:
            part.to(device)

    @torch.no_grad()
    def find_parts(
        self, guidance: Guidance, sample_cameras: Callable[[], CameraBatch], generator: torch.Generator
    ) -> None:
        """Find out which parts of the surface the new words change, where they are asked for; the others are kept.

        Args:
            guidance: prepared.
            sample_cameras: draws cameras to look from.
            generator: of all noise.
        """
        if not self.options.finds_region:
            return
        seen: list[tuple[Tensor, ...]] = []
        done = 0
        while done < LOOKS:
            cameras = sample_cameras()
            bundle = rays(cameras)
            render = self._renderer.render(bundle, self._scene, generator=generator)
            share = TIMES[0] + (TIMES[1] - TIMES[0]) * min(1, (done + len(cameras) / 2) / LOOKS)
            difference = guidance.compare_words(render, cameras, share=share, generator=generator)
            places = bundle.origins + render.depth.view(-1, 1) * bundle.directions
            seen.append((render.image, places.view(render.image.shape), render.opacity[..., 0], difference))
            done += len(cameras)
        looks = Looks(*(torch.cat(part) for part in zip(*seen, strict=True)))
        self.parts = find_parts(looks, self._scene.field.bound, generator)
        if self.parts is None:
            logger.warning(
                f'The object is fog: its most opaque pixel in {done} views has an opacity of {looks.opacity.max():.3f}, '
                f'and below {SOLID} it shows no surface. So model.edit.find_region found no parts: all that the regions '
                'allow may change. Say where with model.edit.change_box=[x0,y0,z0,x1,y1,z1].'
            )

    def may_change(self, positions: Tensor) -> Tensor:
        """Return whether the object may change at positions: [N, 3] -> [N] bool."""
        inside = self.options.may_change(positions)
        if self.parts is None:
            return inside
        with torch.no_grad():
            albedo = self._scene.field(positions).albedo
        assert albedo is not None, 'it was asked for'
        return inside & self.parts.may_change(positions, albedo)

    def render(
        self, renderer: Renderer, scene: Scene, bundle: RayBundle, *, generator: torch.Generator, **options: Any
    ) -> tuple[RenderOutput, RenderOutput]:
        """Render the object as it is, with a gradient where it may change, and as it was.

        Both have the same background and jitter. The generator ends as after one render.

        Args:
            renderer: of the object as it is.
            scene: as it is.
            bundle: rays of both.
            generator: of both.
            options: of :meth:`Renderer.render`.
        """
        state = generator.get_state()
        with torch.no_grad():
            before = self._renderer.render(bundle, self._scene, generator=generator, **options)
        generator.set_state(state)
        gated = Scene(cast(RadianceField, _Gate(scene.field, self)), scene.material, scene.background)
        return renderer.render(bundle, gated, generator=generator, **options), before

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each of :meth:`losses`."""
        return {'keep': self.options.keep_weight}

    def losses(
        self, field: RadianceField, renders: tuple[RenderOutput, RenderOutput], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return how far the field has moved where it may not, a scalar, as ``keep``; nothing where it may move everywhere.

        Half of the points lie where one of the renders has samples, the others anywhere in the box.
        """
        if not self.options.keeps_something:
            return {}
        points = self._points(renders, field.bound, generator)
        inside = self.may_change(points)
        color, shape = ~inside | self.options.keep_color, ~inside | self.options.keep_shape
        held = color | shape
        points, color, shape = points[held], color[held], shape[held]
        if not len(points):
            return {}
        with torch.no_grad():
            before = self._scene.field(points)
        side = 2 * field.bound / CELLS
        return {'keep': field_difference(field(points), before, side, shape=shape, color=color)}

    def _points(self, renders: tuple[RenderOutput, RenderOutput], bound: float, generator: torch.Generator) -> Tensor:
        seen = torch.cat([render.samples.positions.detach() for render in renders if render.samples is not None])
        device = generator.device
        anywhere = (2 * torch.rand(POINTS // 2, 3, generator=generator, device=device) - 1) * bound
        if not len(seen):
            return anywhere
        row = torch.randint(len(seen), (POINTS // 2,), generator=generator, device=device)
        return torch.cat([anywhere.to(seen), seen[row]])


def check_finds_region(options: EditOptions | None, guidance: Guidance) -> None:
    """Refuse to look for what words change with a guidance that compares none, before anything is loaded."""
    if options is None or not options.finds_region or type(guidance).compare_words is not Guidance.compare_words:
        return
    allowed = f'false with {type(guidance).__name__}, whose compare_words is not written'
    refuse('model.edit.find_region', True, allowed, 'Set it to false.')


def render_both(
    edit: Edit | None, renderer: Renderer, scene: Scene, bundle: RayBundle, **options: Any
) -> tuple[RenderOutput, RenderOutput | None]:
    """Render an object as :meth:`Edit.render` does; without an edit there is nothing that it was before."""
    if edit is None:
        return renderer.render(bundle, scene, **options), None
    return edit.render(renderer, scene, bundle, **options)


def _frozen(part: Part) -> Part:
    return copy.deepcopy(part).requires_grad_(False)


class _Gate:
    """A field that learns only where it may change; otherwise the field itself."""

    def __init__(self, field: RadianceField, edit: Edit) -> None:
        self._field, self._edit = field, edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._field, name)

    def __call__(self, positions: Tensor, *, with_albedo: bool = True) -> FieldOutput:
        out = self._field(positions, with_albedo=with_albedo)
        inside = self._edit.may_change(positions)
        density, albedo = out.density, out.albedo
        density = density.detach() if self._edit.options.keep_shape else torch.where(inside, density, density.detach())
        if albedo is not None:
            free = inside[:, None] & (not self._edit.options.keep_color)
            albedo = torch.where(free, albedo, albedo.detach())
        return FieldOutput(density=density, albedo=albedo)

    def normals(self, positions: Tensor) -> Tensor:
        if self._edit.options.keep_shape:
            with torch.no_grad():
                return self._field.normals(positions)
        normals = self._field.normals(positions)
        return torch.where(self._edit.may_change(positions)[:, None], normals, normals.detach())
