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

"""Files that a page asks for: always in the run's own folder, under names that the program makes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.assets import export_asset
from nemo_dreamfusion.export.fast_views import FastViews, spread
from nemo_dreamfusion.export.video import save_video
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.viewer.scene_copy import SceneCopy

logger = logging.getLogger('nemo_dreamfusion.viewer.exports')

FOLDER = 'viewer'  # within the run's
FPS = 24  # of a turntable


@dataclass(frozen=True)
class ExportOptions:
    """What the files are like: the settings of the run that have these names."""

    mesh_resolution: int
    mesh_faces: int
    texture_size: int
    turntable_frames: int
    turntable_size: int


class Exporter:
    """Writes one file at a time in a thread of its own.

    Args:
        folder: the run's.
        about: what ``asset.extras`` of a .glb says.
        orbit: cameras for the texture and the comparison of a mesh, and those that a turntable's are like.
        options: of the files.
        say: takes the sentence on the last file.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        orbit: OrbitCameras,
        options: ExportOptions,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.about, self.orbit, self.options = folder / FOLDER, dict(about), orbit, options
        self._say = say
        self._thread: threading.Thread | None = None

    def mesh(self, scene: SceneCopy | None) -> None:
        """Write ``step<number>.glb``."""
        self._start(scene, 'glb', self._write_mesh)

    def turntable(self, scene: SceneCopy | None) -> None:
        """Write ``step<number>.mp4``."""
        self._start(scene, 'mp4', self._write_turntable)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the file is written."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _start(self, scene: SceneCopy | None, suffix: str, write: Callable[[SceneCopy, Path], Any]) -> None:
        if scene is None:
            self._say('There is nothing to export yet.')
            return
        if self._thread is not None and self._thread.is_alive():
            self._say('The last export is still being written.')
            return
        path = self.folder / f'step{scene.step:06d}.{suffix}'
        self._say(f'Writing {path.name} ...')
        try:
            scene.wait()
            own = SceneCopy(scene, scene.step)  # the page's goes on changing
        except Exception as error:  # no memory for it: the page goes on
            self._fail(path, error)
            return
        self._thread = threading.Thread(target=self._write, args=(own, path, write), daemon=True)
        self._thread.start()

    def _write(self, own: SceneCopy, path: Path, write: Callable[[SceneCopy, Path], Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(own, path)
            self._say(f'Wrote {FOLDER}/{path.name} in the run\'s folder.')
        except Exception as error:  # an empty field, a full disk: the fit goes on
            self._fail(path, error)

    def _fail(self, path: Path, error: Exception) -> None:
        logger.warning('%s was not written: %s', path.name, first_line(error))
        self._say(f'{path.name} was not written: {first_line(error)}.')

    def _write_mesh(self, own: SceneCopy, path: Path) -> None:
        o = self.options
        sizes: dict[str, Any] = {
            'resolution': o.mesh_resolution,
            'faces': o.mesh_faces,
            'texture_size': o.texture_size,
        }
        export_asset(own, path, **sizes, about=self.about, orbit=self.orbit)

    def _write_turntable(self, own: SceneCopy, path: Path) -> None:
        frames, size = self.options.turntable_frames, self.options.turntable_size
        orbit = self.orbit.resized(frames, size)
        views = FastViews(own, frames * size**2, spread(orbit))
        save_video((views.render(orbit[i]).image[0] for i in range(frames)), path, fps=FPS)
