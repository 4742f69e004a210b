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
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemo_dreamfusion.callbacks.views import make_orbit
from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.animation import save_webp
from nemo_dreamfusion.export.layers import relit, straight_alpha, surface_normals
from nemo_dreamfusion.export.stills import save_rgba, to_uint8
from nemo_dreamfusion.export.video import save_video
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.parts.checks import check_choice, check_positive, check_range, refuse
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput

PICTURES = ('turntable', 'webp', 'stills', 'relit', 'depth', 'normals')
STILLS = 4  # views of straight alpha
RELIT_AZIMUTH_DEG = 30.0  # where the camera of relit.mp4 stands

Writer = Callable[[Path], Any]


class RendersLayers(Protocol):
    """What the pictures need of the model, such as a ``DreamFusion``."""

    @property
    def scene(self) -> Scene:
        """Return field, material and background."""

    def render_cameras(self, cameras: CameraBatch, *, with_normals: bool = False) -> RenderOutput:
        """Render B views, without a gradient."""

    def render_background(self, cameras: CameraBatch) -> Tensor:
        """Return what is behind the object in B views: [B, H, W, 3]."""


def check_pictures(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of names of ``PICTURES`` as a tuple, each once, or refuse it as the setting ``name``."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        refuse(name, value, f'a list of {", ".join(PICTURES)}', f"Set '{name}=[turntable,stills]', or '{name}=[]'.")
    return tuple(dict.fromkeys(check_choice(name, one, PICTURES) for one in value))


class Pictures:
    """Writes the pictures of a model.

    Args:
        names: of ``PICTURES``.
        frames: of each turn; 0: no moving picture.
        size: pixels of a side.
        fps: frames per second.
    """

    def __init__(self, names: Sequence[str], *, frames: int, size: int, fps: int) -> None:
        self.names = check_pictures('pictures', names)
        self.frames = check_range('turntable_frames', frames, 0, integer=True)
        self.size = check_positive('turntable_size', size, integer=True)
        self.fps = check_positive('fps', fps, integer=True)

    def files(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[tuple[str, Writer]]:
        """Yield each file's name within the run's folder, and what writes it."""
        model = cast(RendersLayers, pl_module)
        if self.frames:
            yield from self._turns(model, make_orbit(trainer, self.frames, self.size))
            if 'relit' in self.names:
                camera = _stand(make_orbit(trainer, 1, self.size), RELIT_AZIMUTH_DEG)
                yield 'relit.mp4', lambda path: save_video(self._relit(model, camera), path, fps=self.fps)
        if 'stills' in self.names:
            orbit = make_orbit(trainer, STILLS, self.size)
            for i in range(STILLS):
                camera = orbit[i]
                yield f'stills/rgba_{360 * i // STILLS:03d}.png', _StillWriter(model, camera)

    def _turns(self, model: RendersLayers, orbit: OrbitCameras) -> Iterator[tuple[str, Writer]]:
        turn = _Turn(model, orbit)
        if 'turntable' in self.names:
            yield 'turntable.mp4', lambda path: save_video(turn, path, fps=self.fps)
        if 'webp' in self.names:
            yield 'turntable.webp', lambda path: save_webp(turn, path, fps=self.fps)
        if 'depth' in self.names:
            yield 'depth.mp4', lambda path: save_video(_depths(model, orbit), path, fps=self.fps)
        if 'normals' in self.names:
            yield 'normals.mp4', lambda path: save_video(_normals(model, orbit), path, fps=self.fps)

    def _relit(self, model: RendersLayers, camera: CameraBatch) -> Iterator[Tensor]:
        """Render once, and shade again for each frame."""
        render = model.render_cameras(camera)
        background = model.render_background(camera)
        bundle = rays(camera.to(render.image.device))
        rgba = straight_alpha(render, background)
        with torch.no_grad():
            yield from relit(
                rgba, surface_normals(render, bundle), bundle, background, model.scene.material, self.frames
            )


class _Turn:
    """The frames of one turn as bytes [H, W, 3] / 255, rendered when they are first asked for and then kept."""

    def __init__(self, model: RendersLayers, orbit: OrbitCameras) -> None:
        self.model, self.orbit = model, orbit
        self._kept: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(len(self.orbit)):
            if i == len(self._kept):
                image = self.model.render_cameras(self.orbit[i]).image[0]
                self._kept.append(torch.from_numpy(to_uint8(image)))
            yield self._kept[i].float() / 255


class _StillWriter:
    """Renders one view with straight alpha and writes it."""

    def __init__(self, model: RendersLayers, camera: CameraBatch) -> None:
        self.model, self.camera = model, camera

    def __call__(self, path: Path) -> Path:
        render = self.model.render_cameras(self.camera)
        return save_rgba(straight_alpha(render, self.model.render_background(self.camera))[0], path)


def _depths(model: RendersLayers, orbit: OrbitCameras) -> Iterator[Tensor]:
    """Yield depth as grey [H, W, 3]: 1 a unit before the origin, 0 a unit behind it and where nothing is."""
    for i in range(len(orbit)):
        render = model.render_cameras(orbit[i])
        near = (1 - (render.depth - orbit.distance)) / 2
        yield (near.clamp(0, 1) * render.opacity)[0].expand(-1, -1, 3)


def _normals(model: RendersLayers, orbit: OrbitCameras) -> Iterator[Tensor]:
    """Yield world normals as colours (n + 1) / 2 over white: [H, W, 3]."""
    for i in range(len(orbit)):
        render = model.render_cameras(orbit[i], with_normals=True)
        assert render.normals is not None
        yield ((render.normals + render.opacity) / 2 + 1 - render.opacity)[0]


def _stand(orbit: OrbitCameras, azimuth_deg: float) -> CameraBatch:
    """Return one camera like those of an orbit at an azimuth."""
    one = torch.ones(1)
    angles = (one * azimuth_deg, one * orbit.elevation_deg, one * orbit.distance, one * orbit.fov_deg)
    return cameras_from_orbit(*angles, orbit.height, orbit.width)
