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

"""Pictures while a fit runs, and everything a finished object leaves behind."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemo_dreamfusion.callbacks.collapse import diagnose
from nemo_dreamfusion.data.cameras import collate_cameras
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.mesh import export_mesh
from nemo_dreamfusion.export.stills import save_still, save_strip
from nemo_dreamfusion.export.video import save_video
from nemo_dreamfusion.modules.renderers.base import Renderer
from nemo_dreamfusion.parts.checks import check_positive, check_range
from nemo_dreamfusion.parts.files import write_atomically
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput

logger = logging.getLogger('nemo_dreamfusion.callbacks.preview')

NAMES = {'validation': 'val', 'test': 'test'}  # of the strips -> of the data module's cameras


class Preview(pl.Callback):
    """Writes ``preview.png`` every so often, and at the end also ``turntable.mp4``, ``mesh.glb``, ``metrics.json``.

    Validation and testing leave ``validation.png`` and ``test.png``, and each view by itself in a folder of that name.
    The cameras stand as those of the data module's test set do. Only the first rank writes the strips.

    Args:
        folder: of the run.
        interval: steps between two previews while the fit runs; 0: none but the last.
        views: in the preview.
        size: pixels of a side of each of them.
        turntable_frames: of the video, one turn.
        turntable_size: pixels of a side.
        fps: frames per second.
        mesh_resolution: grid corners along a side for the mesh; 0: no mesh.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        interval: int = 100,
        views: int = 8,
        size: int = 128,
        turntable_frames: int = 48,
        turntable_size: int = 192,
        fps: int = 16,
        mesh_resolution: int = 128,
    ) -> None:
        self.folder = Path(folder)
        self.interval = check_range('interval', interval, 0, integer=True)
        self.views = check_positive('views', views, integer=True)
        self.size = check_positive('size', size, integer=True)
        self.turntable_frames = check_positive('turntable_frames', turntable_frames, integer=True)
        self.turntable_size = check_positive('turntable_size', turntable_size, integer=True)
        self.fps = check_positive('fps', fps, integer=True)
        self.mesh_resolution = check_range('mesh_resolution', mesh_resolution, 0, integer=True)
        self._seconds = 0.0  # of the fit, with those of the runs that this one resumes
        self._began: float | None = None  # None: the clock stands still
        self._step_seconds = 0.0  # of the steps alone, without the previews and validations between them
        self._step_began = 0.0
        self._renderer: Renderer | None = None  # of the model that is fitted
        self._dropped_before = 0  # steps with dropped rays of the runs that this one resumes
        self._seen: list[tuple[CameraBatch, Tensor]] = []

    # While the fit runs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._began = time.monotonic()
        self._renderer = getattr(pl_module, 'renderer', None)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        """Starts the step's own clock."""
        self._step_began = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs, batch, batch_idx: int
    ) -> None:
        """A preview every ``interval`` steps."""
        self._step_seconds += time.monotonic() - self._step_began
        step = trainer.global_step
        if self.interval and step % self.interval == 0 and step != trainer.max_steps and trainer.is_global_zero:
            self._try('preview.png', lambda path: self._write_preview(trainer, pl_module, path))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock."""
        self._seconds_so_far()
        self._began = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything that a finished object leaves; an interrupted fit leaves its checkpoint, at once."""
        interrupted = any(getattr(callback, 'interrupted', False) for callback in trainer.callbacks)
        if trainer.is_global_zero and not trainer.fast_dev_run and not interrupted:
            self.write_all(trainer, pl_module)

    def state_dict(self) -> dict[str, float]:
        """Return the fit's time so far, in seconds, and the steps with dropped rays: the checkpoint holds them."""
        return {
            'seconds': self._seconds_so_far(),
            'step_seconds': self._step_seconds,
            'steps_with_dropped_rays': self._count_dropped_steps(),
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from the numbers of a checkpoint; those of earlier releases hold the time only."""
        self._seconds, self._step_seconds = state_dict['seconds'], state_dict.get('step_seconds', 0.0)
        self._dropped_before = int(state_dict.get('steps_with_dropped_rays', 0))

    def write_all(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """preview.png, turntable.mp4, mesh.glb and metrics.json; one that fails does not take the others with it."""
        metrics = self._measure(trainer, pl_module)
        opacity = self._try('preview.png', lambda path: self._write_preview(trainer, pl_module, path))
        if opacity is not None:
            metrics['diagnosis'] = diagnose(opacity[..., 0])
            if metrics['diagnosis']:
                logger.warning('The finished object looks wrong. %s', metrics['diagnosis'])
        frames = self._orbit(trainer, self.turntable_frames, self.turntable_size)
        images = (output.image[0] for _, output in _renders(pl_module, frames))
        self._try('turntable.mp4', lambda path: save_video(images, path, fps=self.fps))
        if self.mesh_resolution:
            resolution = self.mesh_resolution
            mesh = self._try('mesh.glb', lambda path: export_mesh(pl_module, path, resolution=resolution))
            metrics['mesh'] = mesh and {'vertices': len(mesh.vertices), 'faces': len(mesh.faces)}
        self._try('metrics.json', lambda path: _write_json(metrics, path))

    def _write_preview(self, trainer: pl.Trainer, pl_module: pl.LightningModule, path: Path) -> Tensor:
        """Writes the strip; gives back the opacities [B, H, W, 1] that it shows."""
        pairs = list(_renders(pl_module, self._orbit(trainer, self.views, self.size)))
        images = torch.cat([output.image.cpu() for _, output in pairs])
        save_strip(images, collate_cameras([cameras for cameras, _ in pairs]), path)
        return torch.cat([output.opacity.cpu() for _, output in pairs])

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        steps = trainer.global_step
        logged = {name: value.item() for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        prompts = getattr(pl_module, 'prompts', None)
        return {
            'prompt': prompts and prompts.prompt,
            'steps': steps,
            'fit_seconds': round(self._seconds, 2),
            'seconds_per_step': round(self._step_seconds / max(steps, 1), 4),
            'steps_with_dropped_rays': self._count_dropped_steps(),
            'last_step': logged,
        }

    def _count_dropped_steps(self) -> int:
        """Return how many steps of this process, and of the runs that it resumes, lost rays."""
        return self._dropped_before + (self._renderer.count_dropped_steps() if self._renderer else 0)

    def _seconds_so_far(self) -> float:
        """Moves what the clock shows into ``_seconds``."""
        if self._began is not None:
            now = time.monotonic()
            self._seconds, self._began = self._seconds + now - self._began, now
        return self._seconds

    def _orbit(self, trainer: pl.Trainer, views: int, size: int) -> OrbitCameras:
        like = trainer.datamodule.test_cameras
        return OrbitCameras(
            views=views,
            elevation_deg=like.elevation_deg,
            distance=like.distance,
            fov_deg=like.fov_deg,
            height=size,
            width=size,
        )

    def _try(self, name: str, write: Callable[[Path], object]) -> object | None:
        """Writes one file of the run; a failure is said, and the fit goes on."""
        try:
            return write(self.folder / name)
        except (OSError, ValueError, ImportError) as error:
            logger.warning('%s was not written: %s', name, error)
            return None

    # Validation and testing

    def on_validation_batch_end(self, trainer, pl_module, outputs: RenderOutput, batch: CameraBatch, *args) -> None:
        """Keeps the view for the strip."""
        self._seen.append((batch.to('cpu'), outputs.image.detach().cpu()))

    def on_test_batch_end(self, trainer, pl_module, outputs: RenderOutput, batch: CameraBatch, *args) -> None:
        """As :meth:`on_validation_batch_end`."""
        self._seen.append((batch.to('cpu'), outputs.image.detach().cpu()))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what validation saw."""
        self._write_seen(trainer, pl_module, 'validation')

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what testing saw."""
        self._write_seen(trainer, pl_module, 'test')

    def _write_seen(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> None:
        seen, self._seen = self._seen, []
        if trainer.sanity_checking or not seen:
            return
        cameras, images = collate_cameras([c for c, _ in seen]), torch.cat([image for _, image in seen])
        for azimuth, elevation, image in zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), images):
            still = f'{name}/azimuth{round(azimuth):+04d}_elevation{round(elevation):+03d}.png'
            self._try(still, lambda path, image=image: save_still(image, path))
        if trainer.world_size > 1:  # each rank rendered its share
            count = len(getattr(trainer.datamodule, f'{NAMES[name]}_cameras'))
            images = _from_all_ranks(pl_module, images, count)
            tensors = {key: value for key, value in vars(cameras).items() if isinstance(value, Tensor)}
            cameras = replace(cameras, **{k: _from_all_ranks(pl_module, v, count) for k, v in tensors.items()})
        if trainer.is_global_zero:
            self._try(f'{name}.png', lambda path: save_strip(images, cameras, path))


def _from_all_ranks(pl_module: pl.LightningModule, share: Tensor, count: int) -> Tensor:
    """[n, ...] on each of W ranks -> [count, ...] in the set's order (rank r has r, r + W, ..., padded by repeats)."""
    return pl_module.all_gather(share.to(pl_module.device)).transpose(0, 1).flatten(0, 1)[:count].cpu()


def _renders(pl_module: pl.LightningModule, orbit: OrbitCameras) -> Iterator[tuple[CameraBatch, RenderOutput]]:
    """One camera after the other: memory for one image is enough."""
    for i in range(len(orbit)):
        yield orbit[i], pl_module.render_cameras(orbit[i])


def _write_json(values: dict, path: Path) -> None:
    write_atomically(path, json.dumps(values, indent=2) + '\n')
