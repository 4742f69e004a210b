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

"""The pictures of a finished object, by name: what a list in the configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.callbacks.picture_names import check_background, check_pictures
from nemo_dreamfusion.callbacks.views import make_orbit
from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.animation import save_animation
from nemo_dreamfusion.export.fast_views import FastViews, HasViews, spread
from nemo_dreamfusion.export.layers import relit, straight_alpha, surface_normals
from nemo_dreamfusion.export.stills import save_rgba, to_uint8
from nemo_dreamfusion.export.video import save_video
from nemo_dreamfusion.parts.checks import check_positive, check_range
from nemo_dreamfusion.parts.types import CameraBatch

STILLS = 4  # views of straight alpha
RELIT_AZIMUTH_DEG = 30.0  # where the camera of relit.mp4 stands
ANIMATED = 60  # frames of a .webp or .gif at most: every second or third one of a longer turn

Writer = Callable[[Path], Any]


class Pictures:
    """Writes the pictures of a model.

    Args:
        names: of ``PICTURES``.
        frames: of each turn; 0: no moving picture.
        size: pixels of a side.
        fps: frames per second.
        background: the colour behind the object where it moves, such as 'black' or '#223344'; None: the scene's own.
    """

    def __init__(
        self, names: Sequence[str], *, frames: int, size: int, fps: int, background: str | None = None
    ) -> None:
        self.names = check_pictures('pictures', names)
        self.frames = check_range('turntable_frames', frames, 0, integer=True)
        self.size = check_positive('turntable_size', size, integer=True)
        self.fps = check_positive('fps', fps, integer=True)
        self.background = check_background('picture_background', background)

    def files(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[tuple[str, Writer]]:
        """Yield each file's name within the run's folder, and what writes it."""
        if not self.frames and 'stills' not in self.names:
            return
        judges = spread(make_orbit(trainer, STILLS, self.size))
        views = FastViews(cast(HasViews, pl_module), self.size**2 * (STILLS + self.frames), judges)
        if self.frames:
            yield from self._turns(views, make_orbit(trainer, self.frames, self.size))
            if 'relit' in self.names:
                camera = _stand(make_orbit(trainer, 1, self.size), RELIT_AZIMUTH_DEG)
                yield 'relit.mp4', lambda path: save_video(self._relit(views, camera), path, fps=self.fps)
        if 'stills' in self.names:
            orbit = make_orbit(trainer, STILLS, self.size)
            for i in range(STILLS):
                yield f'stills/rgba_{360 * i // STILLS:03d}.png', partial(_write_still, views, orbit[i])

    def _turns(self, views: FastViews, orbit: OrbitCameras) -> Iterator[tuple[str, Writer]]:
        turn = _Turn(lambda camera: self._show(views, camera), orbit)
        every = -(-len(orbit) // ANIMATED)
        if 'turntable' in self.names:
            yield 'turntable.mp4', lambda path: save_video(turn, path, fps=self.fps)
        for suffix in ('webp', 'gif'):
            if suffix in self.names:
                yield f'turntable.{suffix}', lambda path: save_animation(turn[::every], path, fps=self.fps / every)
        if 'depth' in self.names:
            yield 'depth.mp4', lambda path: save_video(_depths(views, orbit), path, fps=self.fps)
        if 'normals' in self.names:
            yield 'normals.mp4', lambda path: save_video(_normals(views, orbit), path, fps=self.fps)

    def _show(self, views: FastViews, camera: CameraBatch) -> Tensor:
        """Render one view over the chosen background: [H, W, 3]."""
        render = views.render(camera)
        if self.background is None:
            return render.image[0]
        own, chosen = views.model.render_background(camera), render.image.new_tensor(self.background)
        return (render.image + (1 - render.opacity) * (chosen - own))[0]

    def _relit(self, views: FastViews, camera: CameraBatch) -> Iterator[Tensor]:
        """Render once, and shade again for each frame."""
        render = views.render(camera)
        background = views.model.render_background(camera)
        bundle = rays(camera.to(render.image.device))
        rgba = straight_alpha(render, background)
        if self.background is not None:
            background = render.image.new_tensor(self.background).expand_as(background)
        normals, material = surface_normals(render, bundle), views.model.scene.material
        with torch.no_grad():
            yield from relit(rgba, normals, bundle, background, material, self.frames)


class _Turn:
    """The frames of one turn as bytes [H, W, 3], rendered when they are first asked for and then kept."""

    def __init__(self, show: Callable[[CameraBatch], Tensor], orbit: OrbitCameras) -> None:
        self.show, self.orbit = show, orbit
        self._kept: dict[int, np.ndarray] = {}

    def __iter__(self) -> Iterator[np.ndarray]:
        return self[::1]

    def __getitem__(self, which: slice) -> Iterator[np.ndarray]:
        """Yield the frames of a slice."""
        for i in range(*which.indices(len(self.orbit))):
            if i not in self._kept:
                self._kept[i] = to_uint8(self.show(self.orbit[i]))
            yield self._kept[i]


def _write_still(views: FastViews, camera: CameraBatch, path: Path) -> Path:
    """Render one view with straight alpha and write it."""
    return save_rgba(straight_alpha(views.render(camera), views.model.render_background(camera))[0], path)


def _depths(views: FastViews, orbit: OrbitCameras) -> Iterator[Tensor]:
    """Yield depth as grey [H, W, 3]: 1 a unit before the origin, 0 a unit behind it and where nothing is."""
    for i in range(len(orbit)):
        render = views.render(orbit[i])
        near = (1 - (render.depth - orbit.distance)) / 2
        yield (near.clamp(0, 1) * render.opacity)[0].expand(-1, -1, 3)


def _normals(views: FastViews, orbit: OrbitCameras) -> Iterator[Tensor]:
    """Yield world normals as colours (n + 1) / 2 over white: [H, W, 3]."""
    for i in range(len(orbit)):
        render = views.render(orbit[i], with_normals=True)
        assert render.normals is not None
        yield ((render.normals + render.opacity) / 2 + 1 - render.opacity)[0]


def _stand(orbit: OrbitCameras, azimuth_deg: float) -> CameraBatch:
    """Return one camera like those of an orbit at an azimuth."""
    one = torch.ones(1)
    angles = (one * azimuth_deg, one * orbit.elevation_deg, one * orbit.distance, one * orbit.fov_deg)
    return cameras_from_orbit(*angles, orbit.height, orbit.width)
