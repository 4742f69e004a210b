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
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.modules.renderers.base import Renderer, Scene
from nemo_dreamfusion.modules.renderers.volume import VolumeRenderer
from nemo_dreamfusion.modules.renderers.voxels import VoxelScene, make_voxels
from nemo_dreamfusion.parts.images import compute_psnr
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput

logger = logging.getLogger('nemo_dreamfusion.export.fast_views')

GOOD_PSNR = 40.0  # dB, against the field's own render: below, another grid or none
_WORTH = 2**20  # pixels from which a grid costs less than it saves
_RESOLUTIONS = (128, 224)  # corners along a side, tried in turn; the second takes 180 MB
_TEST_SIZE = 96  # pixels of a side of a view that is compared
JUDGES = 4  # views that are compared, spread over those that will be rendered


class HasViews(Protocol):
    """A model that shows its scene from given cameras, such as ``DreamFusion``."""

    @property
    def scene(self) -> Scene:
        """Return field, material and background."""

    def render_cameras(self, cameras: CameraBatch, *, with_normals: bool = False) -> RenderOutput:
        """Render B views, without a gradient."""

    def render_background(self, cameras: CameraBatch) -> Tensor:
        """Return what is behind the object in B views: [B, H, W, 3]."""


def spread(cameras: CameraBatch | OrbitCameras, count: int = JUDGES) -> list[CameraBatch]:
    """Return a few of many cameras, evenly spread over them, each a batch of one."""
    step = max(1, len(cameras) // count)
    return [
        cameras[i : i + 1] if isinstance(cameras, CameraBatch) else cameras[i] for i in range(0, len(cameras), step)
    ]


class FastViews:
    """Renders views of a model whose scene does not change meanwhile.

    A grid of voxels takes the field's place where that pays off: on a CPU, for many pixels, and only if small views of it
    are within ``GOOD_PSNR`` of the field's own, each of them. Otherwise every view is ``model.render_cameras``.

    Args:
        model: such as ``DreamFusion``.
        pixels: how many will be rendered in all, about.
        judged_by: the cameras of the views that are compared: a few that stand for all, see :func:`spread`.
    """

    def __init__(self, model: HasViews, pixels: int, judged_by: Sequence[CameraBatch]) -> None:
        self.model = model
        self._judged_by = [_resized(camera, _TEST_SIZE) for camera in judged_by]
        renderer: Renderer | None = getattr(model, 'renderer', None)
        self._renderer = renderer if isinstance(renderer, VolumeRenderer) and pixels >= _WORTH else None
        self._grids: dict[bool, VoxelScene | None] = {}  # with normals or not; None: no grid is good enough

    def render(self, cameras: CameraBatch, *, with_normals: bool = False) -> RenderOutput:
        """Render B views, as ``model.render_cameras`` does; without ``samples``."""
        grid = self._grid(with_normals)
        if grid is None:
            return self.model.render_cameras(cameras, with_normals=with_normals)
        return grid.render(cameras, self.model.render_background(cameras))

    def _grid(self, with_normals: bool) -> VoxelScene | None:
        if self._renderer is None or self._renderer.occupied.is_cuda:
            return None
        if with_normals not in self._grids:
            self._grids[with_normals] = self._make_grid(self._renderer, with_normals)
        return self._grids[with_normals]

    def _make_grid(self, renderer: VolumeRenderer, with_normals: bool) -> VoxelScene | None:
        """Return the coarsest grid that shows what the field shows in every view that is compared; None where none does."""
        exact = [self.model.render_cameras(view, with_normals=with_normals) for view in self._judged_by]
        reached = -math.inf
        for resolution in _RESOLUTIONS:
            grid = make_voxels(self.model.scene, renderer, resolution, with_normals=with_normals)
            worst = math.inf
            for view, own in zip(self._judged_by, exact):
                found = grid.render(view, self.model.render_background(view))
                worst = min(worst, compute_psnr(_shown(found, with_normals), _shown(own, with_normals)))
                if worst < GOOD_PSNR:
                    break
            if worst >= GOOD_PSNR:
                return grid
            reached = max(reached, worst)
        logger.info('The field is asked for every picture: a grid of voxels agrees with it by %.1f dB only.', reached)
        return None


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
