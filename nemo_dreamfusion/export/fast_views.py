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

"""Many views of one finished object: on a CPU from a grid of voxels, where that shows what the field shows."""

from __future__ import annotations

import logging
import math
from typing import Protocol

from torch import Tensor

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.modules.renderers.volume import VolumeRenderer
from nemo_dreamfusion.modules.renderers.voxels import VoxelScene, make_voxels
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput

logger = logging.getLogger('nemo_dreamfusion.export.fast_views')

GOOD_PSNR = 40.0  # dB, against the field's own render: below, another grid or none
_WORTH = 2**20  # pixels from which a grid costs less than it saves
_RESOLUTIONS = (128, 224)  # corners along a side, tried in turn; the second takes 180 MB
_TEST_SIZE = 96  # pixels of a side of the view that is compared


class HasViews(Protocol):
    """A model that shows its scene from given cameras, such as ``DreamFusion``."""

    @property
    def scene(self) -> Scene:
        """Return field, material and background."""

    def render_cameras(self, cameras: CameraBatch, *, with_normals: bool = False) -> RenderOutput:
        """Render B views, without a gradient."""

    def render_background(self, cameras: CameraBatch) -> Tensor:
        """Return what is behind the object in B views: [B, H, W, 3]."""


class FastViews:
    """Renders views of a model whose scene does not change meanwhile.

    A grid of voxels takes the field's place where that pays off: on a CPU, for many pixels, and only if a small view of it
    is within ``GOOD_PSNR`` of the field's own. Otherwise every view is ``model.render_cameras``.

    Args:
        model: such as ``DreamFusion``.
        pixels: how many will be rendered in all, about.
    """

    def __init__(self, model: HasViews, pixels: int) -> None:
        self.model = model
        renderer: Renderer | None = getattr(model, 'renderer', None)
        self._renderer = renderer if isinstance(renderer, VolumeRenderer) and pixels >= _WORTH else None
        self._grids: dict[bool, VoxelScene | None] = {}  # with normals or not; None: no grid is good enough

    def render(self, cameras: CameraBatch, *, with_normals: bool = False) -> RenderOutput:
        """Render B views, as ``model.render_cameras`` does; without ``samples``."""
        grid = self._grid(cameras, with_normals)
        if grid is None:
            return self.model.render_cameras(cameras, with_normals=with_normals)
        return grid.render(rays(cameras), self.model.render_background(cameras))

    def _grid(self, cameras: CameraBatch, with_normals: bool) -> VoxelScene | None:
        if self._renderer is None or self._renderer.occupied.is_cuda:
            return None
        if with_normals not in self._grids:
            self._grids[with_normals] = self._make_grid(self._renderer, cameras[:1], with_normals)
        return self._grids[with_normals]

    def _make_grid(self, renderer: VolumeRenderer, camera: CameraBatch, with_normals: bool) -> VoxelScene | None:
        """Return the coarsest grid that shows what the field shows; None where none does."""
        small = _resized(camera, _TEST_SIZE)
        exact = self.model.render_cameras(small, with_normals=with_normals)
        background = self.model.render_background(small)
        reached = -math.inf
        for resolution in _RESOLUTIONS:
            grid = make_voxels(self.model.scene, renderer, resolution, with_normals=with_normals)
            found = grid.render(rays(small), background)
            reached = max(reached, compute_psnr(*(_shown(one, with_normals) for one in (found, exact))))
            if reached >= GOOD_PSNR:
                return grid
        logger.info('The field is asked for every picture: a grid of voxels agrees with it by %.1f dB only.', reached)
        return None


def compute_psnr(image: Tensor, other: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two images in [0, 1], dB; 100 at most."""
    return -10 * math.log10(max(float((image - other).square().mean()), 1e-10))


def _shown(render: RenderOutput, with_normals: bool) -> Tensor:
    if not with_normals:
        return render.image
    assert render.normals is not None
    return (render.normals + 1) / 2


def _resized(cameras: CameraBatch, size: int) -> CameraBatch:
    """Return the cameras with images of ``size`` rows."""
    width = max(1, round(cameras.width * size / cameras.height))
    fields = (cameras.camera_to_world, cameras.fov_y_rad, cameras.azimuth_deg, cameras.elevation_deg, cameras.distance)
    return CameraBatch(*fields, height=size, width=width)
