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

"""Write pictures while a fit runs, and the files of the finished object."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemo_dreamfusion.callbacks.collapse import diagnose
from nemo_dreamfusion.callbacks.pictures import Pictures
from nemo_dreamfusion.callbacks.views import make_orbit, render_cameras
from nemo_dreamfusion.data.cameras import collate_cameras
from nemo_dreamfusion.data.datamodule import camera_data
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.agreement import VIEW_SIZE, VIEWS
from nemo_dreamfusion.export.assets import HasScene, check_asset_options, describe, export_asset
from nemo_dreamfusion.export.stills import save_still, save_strip
from nemo_dreamfusion.modules.renderers.base import Renderer
from nemo_dreamfusion.parts.checks import check_positive, check_range
from nemo_dreamfusion.parts.files import write_atomically
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput

logger = logging.getLogger('nemo_dreamfusion.callbacks.preview')

Written = TypeVar('Written')
NAMES = {'validation': 'val', 'test': 'test'}  # of the strips -> of the data module's cameras


class Preview(pl.Callback):
    """Write ``preview.png`` at an interval, and at the end also the other pictures, ``mesh.glb`` and ``metrics.json``.

    Validation and testing write ``validation.png`` and ``test.png``, and each view by itself in a folder of that name.
    The cameras stand on the data module's test orbit. Only the first rank writes the strips.

    Args:
        folder: the run's folder.
        interval: steps between two previews while the fit runs; 0: only the one at the end.
        views: number of views in the preview.
        size: pixels of a side of each view.
        turntable_frames: frames of each video, which is one turn; 0: no video.
        turntable_size: pixels of a side of each frame, and of each still.
        fps: frames per second.
        pictures: which there are at the end, of ``nemo_dreamfusion.callbacks.pictures.PICTURES``.
        picture_background: behind the object where it moves, a colour's name; None: the scene's own.
        mesh_resolution: grid corners along a side for the mesh; 0: no mesh.
        mesh_faces: triangles of the mesh at most.
        texture_size: texels of a side of its texture.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        mesh_resolution: int,
        mesh_faces: int,
        texture_size: int,
        interval: int = 100,
        views: int = 8,
        size: int = 128,
        turntable_frames: int = 0,
        turntable_size: int = 512,
        fps: int = 24,
        pictures: Sequence[str] = ('turntable',),
        picture_background: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.interval = check_range('interval', interval, 0, integer=True)
        self.views = check_positive('views', views, integer=True)
        self.size = check_positive('size', size, integer=True)
        self.pictures = Pictures(
            pictures, frames=turntable_frames, size=turntable_size, fps=fps, background=picture_background
        )
        self.mesh_resolution = check_range('mesh_resolution', mesh_resolution, 0, integer=True)
        check_asset_options(mesh_faces, texture_size)
        self.mesh_faces, self.texture_size = mesh_faces, texture_size
        self._seconds = 0.0  # of the fit, with those of the runs that this one resumes
        self._began: float | None = None  # None: the clock is stopped
        self._step_seconds = 0.0  # of the steps alone, without the previews and validations between them
        self._step_began = 0.0
        self._renderer: Renderer | None = None  # of the model that is fitted
        self._dropped_before = 0  # steps with dropped rays of the runs that this one resumes
        self._seen: list[tuple[CameraBatch, Tensor]] = []

    # While the fit runs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()
        self._renderer = getattr(pl_module, 'renderer', None)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the step's own clock."""
        self._step_began = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a preview every ``interval`` steps."""
        self._step_seconds += time.monotonic() - self._step_began
        step = trainer.global_step
        if self.interval and step % self.interval == 0 and step != trainer.max_steps and trainer.is_global_zero:
            self._try('preview.png', lambda path: self._write_preview(trainer, pl_module, path))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._seconds_so_far()
        self._began = None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write all files of the finished object; nothing after an interrupt, which must be quick."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it and does not declare it
        interrupted = any(getattr(callback, 'interrupted', False) for callback in callbacks)
        is_trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # as above
        if trainer.is_global_zero and not is_trial and not interrupted:
            self.write_all(trainer, pl_module)

    def state_dict(self) -> dict[str, float]:
        """Return the time of the fit so far in seconds and the steps with dropped rays, for the checkpoint."""
        return {
            'seconds': self._seconds_so_far(),
            'step_seconds': self._step_seconds,
            'steps_with_dropped_rays': self._count_dropped_steps(),
        }

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Take time and count from a checkpoint; those of earlier releases hold the time only."""
        self._seconds, self._step_seconds = state_dict['seconds'], state_dict.get('step_seconds', 0.0)
        self._dropped_before = int(state_dict.get('steps_with_dropped_rays', 0))

    def write_all(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write preview.png, the pictures, mesh.glb and metrics.json; where one fails, the others are still written."""
        metrics = self._measure(trainer, pl_module)
        opacity = self._try('preview.png', lambda path: self._write_preview(trainer, pl_module, path))
        if opacity is not None:
            metrics['diagnosis'] = diagnose(opacity[..., 0])
            if metrics['diagnosis']:
                logger.warning('The finished object looks wrong. %s', metrics['diagnosis'])
        pictures = self.pictures.files(trainer, pl_module)

        def write_pictures() -> None:
            try:
                for name, write in pictures:  # those that are left
                    self._try(name, write)
            except (OSError, ValueError, ImportError) as error:  # of what they share: the mesh goes on
                logger.warning('The pictures were not written: %s', error)

        if self.mesh_resolution:
            metrics['mesh'] = self._try(
                'mesh.glb', lambda path: self._write_mesh(trainer, pl_module, path, meanwhile=write_pictures)
            )
        write_pictures()
        self._try('metrics.json', lambda path: _write_json(metrics, path))

    def _write_preview(self, trainer: pl.Trainer, pl_module: pl.LightningModule, path: Path) -> Tensor:
        """Write the strip; return the opacities [B, H, W, 1] that it shows."""
        pairs = list(_renders(pl_module, make_orbit(trainer, self.views, self.size)))
        images = torch.cat([output.image.cpu() for _, output in pairs])
        save_strip(images, collate_cameras([cameras for cameras, _ in pairs]), path)
        return torch.cat([output.opacity.cpu() for _, output in pairs])

    def _write_mesh(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, path: Path, *, meanwhile: Callable[[], None]
    ) -> dict[str, Any]:
        """Write the asset; return its report. ``meanwhile`` is done while xatlas works."""
        return export_asset(
            cast(HasScene, pl_module),
            path,
            resolution=self.mesh_resolution,
            faces=self.mesh_faces,
            texture_size=self.texture_size,
            about=describe(pl_module),
            orbit=make_orbit(trainer, VIEWS, VIEW_SIZE),
            meanwhile=meanwhile,
        ).report

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
        """Move what the clock shows into ``_seconds`` and return it."""
        if self._began is not None:
            now = time.monotonic()
            self._seconds, self._began = self._seconds + now - self._began, now
        return self._seconds

    def _try(self, name: str, write: Callable[[Path], Written]) -> Written | None:
        """Write one file of the run; warn about a failure and go on."""
        try:
            return write(self.folder / name)
        except (OSError, ValueError, ImportError) as error:
            logger.warning('%s was not written: %s', name, error)
            return None

    # Validation and testing

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the view for the strip."""
        self._keep(batch, outputs)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the view for the strip."""
        self._keep(batch, outputs)

    def _keep(self, cameras: CameraBatch, render: RenderOutput) -> None:
        self._seen.append((cameras.to('cpu'), render.image.detach().cpu()))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the views of validation."""
        self._write_seen(trainer, pl_module, 'validation')

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the views of testing."""
        self._write_seen(trainer, pl_module, 'test')

    def _write_seen(self, trainer: pl.Trainer, pl_module: pl.LightningModule, name: str) -> None:
        seen, self._seen = self._seen, []
        if trainer.sanity_checking or not seen:
            return
        cameras, images = collate_cameras([c for c, _ in seen]), torch.cat([image for _, image in seen])
        for azimuth, elevation, image in zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), images):
            still = f'{name}/azimuth{round(azimuth):+04d}_elevation{round(elevation):+03d}.png'
            self._try(still, partial(save_still, image))
        if trainer.world_size > 1:  # each rank rendered its share
            count = len(getattr(camera_data(trainer), f'{NAMES[name]}_cameras'))
            images = _from_all_ranks(pl_module, images, count)
            tensors = {key: value for key, value in vars(cameras).items() if isinstance(value, Tensor)}
            gathered: dict[str, Any] = {k: _from_all_ranks(pl_module, v, count) for k, v in tensors.items()}
            cameras = replace(cameras, **gathered)
        if trainer.is_global_zero:
            self._try(f'{name}.png', lambda path: save_strip(images, cameras, path))


def _from_all_ranks(pl_module: pl.LightningModule, share: Tensor, count: int) -> Tensor:
    """Gather [n, ...] of each of W ranks to [count, ...] in the set's order (rank r has r, r + W, ..., then repeats)."""
    shares = pl_module.all_gather(share.to(pl_module.device))
    assert isinstance(shares, Tensor)
    return shares.transpose(0, 1).flatten(0, 1)[:count].cpu()


def _renders(pl_module: pl.LightningModule, orbit: OrbitCameras) -> Iterator[tuple[CameraBatch, RenderOutput]]:
    """Render one camera after the other, so that memory for one image is enough."""
    for i in range(len(orbit)):
        yield orbit[i], render_cameras(pl_module, orbit[i])


def _write_json(values: dict, path: Path) -> None:
    write_atomically(path, json.dumps(values, indent=2) + '\n')
