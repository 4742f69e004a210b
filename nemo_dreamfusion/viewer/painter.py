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

"""Paint pictures for the pages that look: coarse first, then finer, in tiles that a moved camera cancels."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch

from nemo_dreamfusion.export.stills import to_uint8
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.types import CameraBatch
from nemo_dreamfusion.viewer.budget import Budget, use_one_core
from nemo_dreamfusion.viewer.cameras import Pose, camera_of
from nemo_dreamfusion.viewer.cut_surface import Box
from nemo_dreamfusion.viewer.moving import MESH_SECONDS, moving_mesh
from nemo_dreamfusion.viewer.options import Look
from nemo_dreamfusion.viewer.scene_copy import SceneCopy

logger = logging.getLogger('nemo_dreamfusion.viewer.painter')

HEIGHTS = (48, 96, 192, 384)  # pixels, of the pictures before the last
SKETCH = 128  # pixels of the first picture, and of those before the last, where there is a sketch of the scene
TILE = {'cpu': 2048, 'cuda': 2**16}  # rays
REST_SECONDS = 0.05  # a camera that has not moved for so long rests
POLL_SECONDS = 0.2  # how often new weights are looked for while somebody looks


class Screen(Protocol):
    """What shows the pictures, such as a browser's page."""

    def show(self, picture: np.ndarray) -> None:
        """Show a picture [H, W, 3] uint8 of the view of the camera, in place of the mesh."""

    def show_mesh(self) -> None:
        """Show the mesh in place of the picture, if there is one."""

    def set_mesh(self, glb: bytes) -> None:
        """Take another mesh."""


class Source(Protocol):
    """Where the weights come from, such as a :class:`~nemo_dreamfusion.viewer.handover.Handover`."""

    def take(self) -> SceneCopy | None:
        """Return the newest copy of the scene, None before the first."""

    @property
    def is_stale(self) -> bool:
        """Whether newer weights are there than the last that were taken."""


class Page:
    """One page that looks.

    Attributes:
        pose: of its camera; None before the first.
        generation: changes when what it shows is no longer what was asked for.
        level: of ``HEIGHTS`` that comes next.
    """

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.pose: Pose | None = None
        self.generation = 0
        self.level = 0
        self.moved_at = float('-inf')
        self.has_mesh = False

    def move(self, pose: Pose, *, with_mesh: bool) -> None:
        """Take another camera; the picture of the last one is no longer true."""
        if pose == self.pose:
            return
        first = self.pose is None
        self.pose = pose
        self.restart()
        if with_mesh and self.has_mesh and not first:
            self.moved_at = time.monotonic()
            self.screen.show_mesh()

    def restart(self) -> None:
        """Begin with the coarsest picture again."""
        self.level = 0
        self.generation += 1


def heights(resolution: int, sketched: bool = False) -> list[int]:
    """Return the heights of the pictures one after the other, the last of them ``resolution``; the first may be a sketch."""
    if sketched:
        return [min(SKETCH, resolution), *(height for height in HEIGHTS if SKETCH < height < resolution), resolution]
    return [*(height for height in HEIGHTS if height < resolution), resolution]


def _sketch(copy: SceneCopy, camera: CameraBatch, look: Look) -> Iterator[torch.Tensor]:
    """Yield the sketch as a single tile."""
    yield copy.sketch(camera, look)


class Painter:
    """A thread that paints for all pages.

    Args:
        source: of the weights.
        budget: what it may spend.
        look: returns how the scene is shown.

    Attributes:
        pictures, cancelled, meshes: how many there were.
    """

    def __init__(self, source: Source, budget: Budget, look: Callable[[], Look]) -> None:
        self.pictures = self.cancelled = self.meshes = 0
        self.pages: dict[int, Page] = {}
        self.copy: SceneCopy | None = None
        self._source, self._budget, self._look = source, budget, look
        self._mesh: bytes | None = None
        self._mesh_of: tuple[int, Box] | None = None  # step and box
        self._mesh_at = float('-inf')
        self._failed = ''
        self._wake, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name='viewer', daemon=True)

    def start(self) -> None:
        """Begin to paint whatever is asked for."""
        self._thread.start()

    def close(self) -> None:
        """End after the current tile."""
        self._ended = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def wake(self) -> None:
        """Look at once what there is to do."""
        self._wake.set()

    def restart(self) -> None:
        """Paint every page again."""
        for page in list(self.pages.values()):
            page.restart()
        self.wake()

    def _run(self) -> None:
        use_one_core()
        while not self._ended:
            try:
                seconds = self._do_next()
            except Exception as error:  # whatever it is, the fit goes on
                self._fail(error)
                seconds = 1.0
            if seconds is None or seconds > 0:
                self._wake.wait(seconds)
            self._wake.clear()

    def _do_next(self) -> float | None:
        """Do one thing, and return how long to wait before the next one; None: until it is woken."""
        pages = [page for page in list(self.pages.values()) if page.pose is not None]
        if not pages:
            return None
        if self.copy is None:
            self.copy = self._source.take()
        if self.copy is None:
            return POLL_SECONDS
        resting = [page for page in pages if time.monotonic() - page.moved_at >= REST_SECONDS]
        count = len(self._heights())
        todo = [page for page in resting if page.level < count]
        if any(page.level == 0 for page in todo) and self._source.is_stale:
            self.copy = self._source.take()
        if all(page.level > 0 for page in pages) and self._is_mesh_due(pages):
            return self._make_mesh(pages)
        if todo:
            return self._paint(min(todo, key=lambda page: page.level))
        if len(resting) == len(pages) and self._source.is_stale:
            self.copy = self._source.take()
            for page in pages:
                page.level = count - 1
            return 0.0
        return POLL_SECONDS if len(resting) == len(pages) else REST_SECONDS / 2

    def _paint(self, page: Page) -> float:
        assert self.copy is not None and page.pose is not None
        copy, look, pose, generation, level = self.copy, self._look(), page.pose, page.generation, page.level
        if (seconds := self._budget.seconds_to_wait(urgent=level == 0)) > 0:
            return seconds
        steps = self._heights()
        camera = camera_of(pose, steps[min(level, len(steps) - 1)])
        copy.wait()
        sketched = level == 0 and copy.can_sketch(look)
        done: list[torch.Tensor] = []
        tiles = _sketch(copy, camera, look) if sketched else copy.tiles(camera, look, TILE.get(copy.device.type, 2048))
        while True:
            with self._budget.spend():
                tile = next(tiles, None)
                if tile is None:
                    break
                done.append(tile)
            while not self._ended and (seconds := self._budget.seconds_to_wait(urgent=level == 0)) > 0:
                time.sleep(min(seconds, 0.02))
                if page.generation != generation:
                    break
            if self._ended or page.generation != generation:
                self.cancelled += 1
                return 0.0
        with self._budget.spend():
            picture = to_uint8(torch.cat(done).view(camera.height, camera.width, 3))
            if page.generation == generation:
                page.screen.show(picture)
                self.pictures += 1
                page.level = level + 1
        return 0.0

    def _heights(self) -> list[int]:
        assert self.copy is not None
        look = self._look()
        return heights(look.resolution, self.copy.can_sketch(look))

    def _is_mesh_due(self, pages: list[Page]) -> bool:
        assert self.copy is not None
        if self.copy.device.type != 'cpu':
            return False  # a GPU paints fast enough while the camera moves
        if self._mesh_of is not None and self._mesh_of[1] != self._look().box:
            return True
        step = None if self._mesh_of is None else self._mesh_of[0]
        is_old = time.monotonic() - self._mesh_at >= MESH_SECONDS and step != self.copy.step
        return is_old or (self._mesh is not None and any(not page.has_mesh for page in pages))

    def _make_mesh(self, pages: list[Page]) -> float:
        assert self.copy is not None
        if (seconds := self._budget.seconds_to_wait(urgent=False)) > 0:
            return seconds
        wanted = self.copy.step, self._look().box
        if self._mesh_of is not None and self._mesh_of[1] != wanted[1]:  # what is there is of another box
            self._mesh = None
            for page in pages:
                page.has_mesh = False
        if self._mesh is None or self._mesh_of != wanted:
            self._mesh_of, self._mesh_at = wanted, time.monotonic()
            try:
                with self._budget.spend():
                    self._mesh = moving_mesh(self.copy, wanted[1])
            except ValueError:  # an empty or broken field: the last picture stays while the camera moves
                return 0.0
            self.meshes += 1
            for page in pages:
                page.has_mesh = False
        for page in pages:
            if not page.has_mesh:
                page.screen.set_mesh(self._mesh)
                page.has_mesh = True
        return 0.0

    def _fail(self, error: Exception) -> None:
        if str(error) != self._failed:
            self._failed = str(error)
            logger.warning('The viewer could not paint: %s', first_line(error))
