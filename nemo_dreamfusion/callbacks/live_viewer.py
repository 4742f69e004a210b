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

"""Let a browser watch a fit, pause it, save it, stop it and export from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl

from nemo_dreamfusion.callbacks.exact_resume import within_step
from nemo_dreamfusion.callbacks.interrupt import SaveOnInterrupt
from nemo_dreamfusion.callbacks.views import make_orbit
from nemo_dreamfusion.export.agreement import VIEW_SIZE, VIEWS
from nemo_dreamfusion.export.assets import describe
from nemo_dreamfusion.viewer.control import FitControl
from nemo_dreamfusion.viewer.exports import ExportOptions
from nemo_dreamfusion.viewer.options import ViewerOptions
from nemo_dreamfusion.viewer.scene_copy import HasParts
from nemo_dreamfusion.viewer.viewer import Viewer

SHOWN = ('loss', 'guidance', 'opacity', 'gradient_norm')


class LiveViewer(pl.Callback):
    """Serve the viewer while a fit runs.

    While no page is open, nothing is copied, rendered or read; watched or not, the fit's numbers are the same. Pausing waits
    after a whole step. Stopping saves and ends the fit as Ctrl-C does, with exit code 75: the same command goes on.

    Args:
        options: the node ``viewer`` of the configuration.
        folder: the run's, for exports.
        interrupt: saves and stops the fit.
        exports: what the exported files are like.
        say: takes the line that names the address.
    """

    STOPPED = 75  # exit code, as of every fit that stops before its last step

    def __init__(
        self,
        options: ViewerOptions,
        folder: Path,
        interrupt: SaveOnInterrupt,
        exports: ExportOptions,
        say: Callable[[str], Any] = print,
    ) -> None:
        self.options, self.folder, self.interrupt, self.exports = options, folder, interrupt, exports
        self.control = FitControl()
        self.viewer: Viewer | None = None
        self._say = say
        self._reported = (0, 0.0)  # step and time of the last report

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open the viewer, before the guidance is loaded."""
        orbit = make_orbit(trainer, VIEWS, VIEW_SIZE)
        self.viewer = Viewer(
            self.options,
            folder=self.folder,
            orbit=orbit,
            about=describe(pl_module),
            exports=self.exports,
            control=self.control,
        )
        self._say(f'Viewer: {self.viewer.url}')

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the first weights."""
        self._reported = (trainer.global_step, time.monotonic())
        self._show(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step's weights and do what was asked for."""
        if within_step(trainer):
            return
        self._show(trainer, pl_module)
        self._save_if_asked(trainer)
        while self.control.wait(until=lambda: self.interrupt.interrupted):
            self._show(trainer, pl_module, now=True)
            self._save_if_asked(trainer)
            self.interrupt.requeue_if_asked(trainer)
        if self.control.stop_requested and not self.interrupt.interrupted:
            self.interrupt.stop('Stopped in the viewer', self.STOPPED)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the last weights while the files are written."""
        self._show(trainer, pl_module, now=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the viewer."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the viewer."""
        self._close()

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, now: bool = False) -> None:
        if self.viewer is None:
            return
        self.viewer.offer(cast(HasParts, pl_module), trainer.global_step, now=now)
        if self.viewer.wants_report():
            self.viewer.report(self._describe(trainer))

    def _describe(self, trainer: pl.Trainer) -> str:
        step, now = trainer.global_step, time.monotonic()
        before, at = self._reported
        self._reported = (step, now)
        lines = [f'step {step} of {trainer.max_steps}' + (', paused' if self.control.paused else '')]
        if step > before:
            lines.append(f'{(now - at) / (step - before):.2f} s a step')
        logged = trainer.callback_metrics
        return '\n'.join([*lines, *(f'{name} {logged[name].item():.4g}' for name in SHOWN if name in logged)])

    def _save_if_asked(self, trainer: pl.Trainer) -> None:
        if self.control.take_save():
            path = self.interrupt.save(trainer)
            if self.viewer is not None:
                self.viewer.report(f'saved checkpoints/{Path(path).name} at step {trainer.global_step}')

    def _close(self) -> None:
        viewer, self.viewer = self.viewer, None
        if viewer is not None:
            viewer.close()
