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

"""How fast the viewer answers while a fit runs, and how much it slows the fit.

    python benchmarks/viewer_response.py                    # 300 steps of the main job
    python benchmarks/viewer_response.py trainer.max_steps=600 viewer.resolution=256

A page without a browser looks at every second block of steps and turns its camera once a second. Counted are the seconds
from the turn to the first picture of the new view, and those of a step, watched over not watched.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time

import lightning.pytorch as pl
import numpy as np
import torch
from scene import NO_FILES
from scipy.spatial.transform import Rotation

from nemo_dreamfusion import launch
from nemo_dreamfusion.callbacks.live_viewer import LiveViewer
from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.viewer.cameras import Pose
from nemo_dreamfusion.viewer.painter import Page, Painter

BLOCK = 25  # steps
FOV_DEG = 36.0
FIRST = 50  # steps that are not counted
BETWEEN = 1.0  # seconds between two turns
SETTINGS = ('viewer.enabled=true', 'viewer.port=0', 'viewer.resolution=128', 'trainer.max_steps=300')


class Clock:
    """A screen that notes when the first picture after a turn arrives."""

    def __init__(self) -> None:
        self.turned_at: float | None = None
        self.answers: list[float] = []  # seconds
        self.spread = 0.0  # of a picture's values: 0 where it showed nothing but background

    def show(self, picture: np.ndarray) -> None:
        """Take a picture."""
        self.spread = max(self.spread, float(picture.std()))
        if self.turned_at is not None:
            self.answers.append(time.perf_counter() - self.turned_at)
            self.turned_at = None

    def show_mesh(self) -> None:
        """Nothing shows it."""

    def set_mesh(self, glb: bytes) -> None:
        """Nothing shows it."""


class Turning(pl.Callback):
    """Opens a page for every second block of steps, and turns it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds: dict[bool, list[float]] = {True: [], False: []}  # of steps, watched or not
        self._page: Page | None = None
        self._began, self._turned, self._azimuth_deg = 0.0, 0.0, 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Open or close the page, or turn it when a second is over."""
        viewer = next(c for c in trainer.callbacks if isinstance(c, LiveViewer)).viewer
        assert viewer is not None
        watched = trainer.global_step // BLOCK % 2 == 1
        if watched != (self._page is not None):
            self._page = Page(self.clock) if watched else None
            viewer.painter.pages = {0: self._page} if self._page is not None else {}
        if self._page is not None and time.perf_counter() - self._turned > BETWEEN:
            self._turn(self._page, viewer.painter)
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Count a step."""
        if trainer.global_step > FIRST:
            self.seconds[self._page is not None].append(time.perf_counter() - self._began)

    def _turn(self, page: Page, painter: Painter) -> None:
        self._azimuth_deg += 30
        one = torch.ones(1)
        orbit = cameras_from_orbit(one * self._azimuth_deg, one * 15, one * 3.2, one * FOV_DEG, 8, 8)
        camera = orbit.camera_to_world[0]
        turned = camera[:3, :3] * torch.tensor([1.0, -1.0, -1.0])  # viser's y and z point down and forward
        x, y, z, w = Rotation.from_matrix(turned.numpy()).as_quat()
        pose = Pose.from_page(camera[:3, 3].tolist(), (w, x, y, z), math.radians(FOV_DEG), 1.0)
        assert pose is not None
        self._turned = self.clock.turned_at = time.perf_counter()
        page.move(pose, with_mesh=False)
        painter.wake()


def main() -> None:
    """Fit, watch and print."""
    turning = Turning()
    with tempfile.TemporaryDirectory() as folder:
        settings = [*SETTINGS, *NO_FILES, f'exp_manager.explicit_log_dir={folder}', *sys.argv[1:]]
        launch.fit(launch.load_config(overrides=settings), callbacks=[turning])
    watched, alone = (statistics.median(turning.seconds[key]) for key in (True, False))
    mean = statistics.mean(turning.seconds[True]) / statistics.mean(turning.seconds[False])
    answers = sorted(turning.clock.answers)
    print(f'steps: {len(turning.seconds[False])} alone, {len(turning.seconds[True])} watched')
    print(f'a step, watched over alone: {watched / alone:.2f} (median), {mean:.2f} (mean)')
    assert turning.clock.spread > 1, 'the camera looked past the object'
    print(
        f'answers: {len(answers)}, median {1e3 * statistics.median(answers):.0f} ms, slowest {1e3 * answers[-1]:.0f} ms, '
        f'over 150 ms: {sum(one > 0.15 for one in answers)}'
    )


if __name__ == '__main__':
    main()
