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

"""A copy of the scene that another thread may look at while the scene itself is fitted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from nemo_dreamfusion.data.cameras import orbit_direction, rays
from nemo_dreamfusion.export.surface import drawn_surface
from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.modules.renderers.volume import VolumeRenderer
from nemo_dreamfusion.modules.renderers.voxels import VoxelScene, make_voxels
from nemo_dreamfusion.parts.types import CameraBatch, FieldOutput, Light, RayBundle, RenderOutput, Shading
from nemo_dreamfusion.viewer.cut_surface import CutSurface
from nemo_dreamfusion.viewer.options import Look

SHADING: dict[str, Shading] = {'shaded': 'lambertian', 'normals': 'normal'}  # layers whose shading has another name
SHADING |= {'albedo': 'albedo', 'phong': 'phong', 'textureless': 'textureless'}
SKETCH_CORNERS = 64  # along a side of the grid of voxels that a first picture is taken from
SKETCHED = ('albedo', 'opacity', 'depth')  # layers that it has
COLORS = {'white': 1.0, 'gray': 0.5, 'black': 0.0}


class HasParts(Protocol):
    """What is copied: the scene and the renderer of a model such as ``DreamFusion``."""

    @property
    def renderer(self) -> Renderer:
        """Return the renderer."""

    @property
    def scene(self) -> Scene:
        """Return field, material and background."""


class SceneCopy:
    """Weights, occupancy and all else that a picture needs, in evaluation mode and without gradients.

    Args:
        model: copied as it stands.
        step: at which it was copied.
    """

    def __init__(self, model: HasParts, step: int = 0) -> None:
        originals = _parts(model)
        self._parts = [copy.deepcopy(part).eval().requires_grad_(False) for part in originals]
        for part in self._parts:
            for parameter in part.parameters():
                parameter.grad = None
        self.step = step
        self._ready: torch.cuda.Event | None = None
        self._voxels: VoxelScene | None = None  # of these weights, once they were sketched
        self.refresh(model, step)

    @property
    def nerf(self) -> RadianceField:
        """The field."""
        return cast(RadianceField, self._parts[0])

    @property
    def renderer(self) -> Renderer:
        """The renderer."""
        return cast(Renderer, self._parts[3])

    @property
    def scene(self) -> Scene:
        """Field, material and background."""
        field, material, background = self._parts[:3]
        return Scene(cast(Any, field), cast(Any, material), cast(Any, background))

    @property
    def device(self) -> torch.device:
        """Where it is rendered."""
        return next(_tensors(self._parts), torch.zeros(())).device

    @torch.no_grad()
    def refresh(self, model: HasParts, step: int) -> None:
        """Take over the weights of ``model``, between two of its steps."""
        for mine, other in zip(_tensors(self._parts), _tensors(_parts(model))):
            mine.copy_(other)
        self.nerf.set_progress(step)
        self.step, self._voxels = step, None
        if self.device.type == 'cuda':
            self._ready = torch.cuda.Event()
            self._ready.record()

    def wait(self) -> None:
        """Let this thread's stream on a GPU wait for the last refresh."""
        if self._ready is not None:
            self._ready.wait()

    @torch.no_grad()
    def render_cameras(
        self, cameras: CameraBatch, *, shading: Shading = 'albedo', with_normals: bool = False
    ) -> RenderOutput:
        """Render B views, as ``DreamFusion.render_cameras`` does."""
        bundle = rays(cameras.to(self.device))
        return self.renderer.render(bundle, self.scene, shading=shading, with_normals=with_normals)

    @torch.no_grad()
    def render_background(self, cameras: CameraBatch) -> Tensor:
        """Return what is behind the object in B views, [B, H, W, 3], as ``DreamFusion.render_background`` does."""
        bundle = rays(cameras.to(self.device))
        return self.scene.background(bundle).view(*bundle.image_shape, 3)

    @torch.no_grad()
    def tiles(self, camera: CameraBatch, look: Look, size: int) -> Iterator[Tensor]:
        """Render one picture in tiles of ``size`` rays, row by row: yields colours [n, 3] in [0, 1].

        Nothing but the tile that was asked for is computed. Triangles are drawn all at once: one tile.
        """
        bundle = rays(camera.to(self.device))
        scene, light, renderer = self._scene_as(look), _light(look, self.device), self._renderer_as(look)
        distance = float(camera.distance)
        for tile in [bundle] if drawn_surface(self) is not None else _split(bundle, size):
            render = renderer.render(tile, scene, shading=SHADING.get(look.layer, 'albedo'), light=light)
            yield _layer(render, look.layer, distance, self.nerf.bound, scene.background(tile))

    def can_sketch(self, look: Look) -> bool:
        """Return whether :meth:`sketch` shows this layer of this scene."""
        is_volume = isinstance(self.renderer, VolumeRenderer) and self.device.type == 'cpu'
        return is_volume and look.layer in SKETCHED and not look.is_cut

    @torch.no_grad()
    def sketch(self, camera: CameraBatch, look: Look) -> Tensor:
        """Render one picture from a grid of voxels, ten times faster and nearly the same: colours [n, 3] in [0, 1]."""
        bundle, scene = rays(camera), self._scene_as(look)
        if self._voxels is None:
            self._voxels = make_voxels(scene, cast(VolumeRenderer, self.renderer), SKETCH_CORNERS)
        behind = scene.background(bundle)
        render = self._voxels.render(camera, behind.view(*bundle.image_shape, 3))
        return _layer(render, look.layer, float(camera.distance), self.nerf.bound, behind)

    def _scene_as(self, look: Look) -> Scene:
        """Return the scene with the background and within the box that were chosen."""
        scene = self.scene
        if look.background in COLORS:
            scene = Scene(scene.field, scene.material, _Plain(COLORS[look.background]))
        if look.is_cut:
            field = cast(RadianceField, _Cut(scene.field, look.box))
            scene = Scene(field, scene.material, scene.background)
        return scene

    def _renderer_as(self, look: Look) -> Renderer:
        """Return the renderer, with its triangles cut off at the box that was chosen."""
        surface = drawn_surface(self)
        if surface is None or not look.is_cut:
            return self.renderer
        renderer = copy.copy(self.renderer)
        renderer._modules = {**renderer._modules, 'surface': CutSurface(surface, look.box)}
        return renderer


class _Plain(Background):
    """One gray behind everything."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, rays: RayBundle, generator: torch.Generator | None = None) -> Tensor:
        return torch.full_like(rays.directions, self.value)


class _Cut:
    """A field of which only what lies in a box is left; otherwise the field itself.

    Args:
        field: the whole.
        box: lowest and highest x, y and z, shares of the field's bound.
    """

    def __init__(self, field: RadianceField, box: tuple[tuple[float, float], ...]) -> None:
        self._field = field
        self._low, self._high = (torch.tensor(ends) * field.bound for ends in zip(*box))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._field, name)

    def _inside(self, positions: Tensor) -> Tensor:
        low, high = self._low.to(positions), self._high.to(positions)
        return ((positions >= low) & (positions <= high)).all(-1)

    def __call__(self, positions: Tensor, *, with_albedo: bool = True) -> FieldOutput:
        out = self._field(positions, with_albedo=with_albedo)
        return FieldOutput(out.density * self._inside(positions), out.albedo)

    def density(self, positions: Tensor) -> Tensor:
        return self._field.density(positions) * self._inside(positions)


def _light(look: Look, device: torch.device) -> Light:
    azimuth, elevation = torch.tensor([look.light_azimuth_deg]), torch.tensor([look.light_elevation_deg])
    return Light(orbit_direction(azimuth, elevation).to(device), look.ambient)


def _layer(render: RenderOutput, layer: str, distance: float, bound: float, behind: Tensor) -> Tensor:
    """Return the colours [n, 3] of a tile [1, 1, n] that show one layer."""
    if layer not in ('depth', 'opacity'):
        return render.image.view(-1, 3)
    opacity = render.opacity.view(-1, 1)
    if layer == 'opacity':
        return opacity.expand(-1, 3)
    near = ((1 - (render.depth.view(-1, 1) - distance) / bound) / 2).clamp(0, 1)  # 1 at the near side of the object
    return near * opacity + behind * (1 - opacity)


def _split(bundle: RayBundle, size: int) -> Iterator[RayBundle]:
    for origins, directions in zip(bundle.origins.split(size), bundle.directions.split(size)):
        yield RayBundle(origins, directions, (1, 1, len(origins)))


def _parts(model: HasParts | SceneCopy) -> list[nn.Module]:
    scene = model.scene
    return [scene.field, scene.material, scene.background, model.renderer]


def _tensors(parts: list[nn.Module]) -> Iterator[Tensor]:
    for part in parts:
        yield from part.parameters()
        yield from part.buffers()
