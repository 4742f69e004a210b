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

"""The viewer as a whole: a server, its pages, the panel, the painter and the exports."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_dreamfusion.data.cameras import orbit_direction
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.viewer.budget import SHARE, Budget
from nemo_dreamfusion.viewer.control import FitControl
from nemo_dreamfusion.viewer.exports import Exporter, ExportOptions
from nemo_dreamfusion.viewer.handover import Handover
from nemo_dreamfusion.viewer.options import HOST, ViewerOptions
from nemo_dreamfusion.viewer.painter import Page, Painter
from nemo_dreamfusion.viewer.panel import Actions, Panel
from nemo_dreamfusion.viewer.scene_copy import HasParts
from nemo_dreamfusion.viewer.screen import BrowserScreen
from nemo_dreamfusion.viewer.server import close_server, open_server

SAID_SECONDS = 1.0  # between two reports of a fit


class Viewer:
    """A running viewer; :meth:`close` ends it.

    Args:
        options: port and resolution.
        folder: where exports go.
        orbit: whose front camera a page begins with.
        about: what an exported asset says of itself.
        exports: what exported files are like.
        control: of the fit that is watched; None: a finished object.

    Raises:
        ValueError: when the port is taken, or viser is not installed.
    """

    def __init__(
        self,
        options: ViewerOptions,
        *,
        folder: Path,
        orbit: OrbitCameras,
        about: Mapping[str, Any],
        exports: ExportOptions,
        control: FitControl | None = None,
    ) -> None:
        self.handover = Handover()
        self._said_at = -math.inf
        self._server = open_server(options.port, 'nemo_dreamfusion')
        self.url = f'http://{HOST}:{self._server.get_port()}'
        self._exporter = Exporter(folder, about, orbit, exports, lambda text: self._panel.say_exported(text))
        actions = Actions(
            on_look=lambda: self.painter.restart(),
            on_fov=self._set_fov,
            on_mesh=lambda: self._exporter.mesh(self.painter.copy),
            on_turntable=lambda: self._exporter.turntable(self.painter.copy),
        )
        self._panel = Panel(
            self._server.gui, resolution=options.resolution, fov_deg=orbit.fov_deg, control=control, actions=actions
        )
        budget = Budget(1.0 if control is None else SHARE)
        self.painter = Painter(self.handover, budget, lambda: self._panel.look)
        self._place_camera(orbit)
        self._server.on_client_connect(self._connect)
        self._server.on_client_disconnect(self._disconnect)
        self.painter.start()

    @property
    def is_watched(self) -> bool:
        """Whether a page is open."""
        return bool(self.painter.pages)

    def offer(self, model: HasParts, step: int, *, now: bool = False) -> None:
        """Show the weights of ``model`` as they stand, when a page is open; at most one copy a second."""
        if self.is_watched:
            self.handover.offer(model, step, now=now)

    def wants_report(self) -> bool:
        """Return whether a page is open and the last report is a second old."""
        return self.is_watched and time.monotonic() - self._said_at >= SAID_SECONDS

    def report(self, text: str) -> None:
        """Show where the fit is."""
        self._said_at = time.monotonic()
        self._panel.say_step(text)

    def close(self) -> None:
        """End server and painter; an export that is being written is finished first."""
        self._exporter.wait()
        self.painter.close()
        close_server(self._server)

    def _place_camera(self, orbit: OrbitCameras) -> None:
        pose = orbit[0]
        position = orbit_direction(pose.azimuth_deg, pose.elevation_deg)[0] * orbit.distance
        self._server.initial_camera.position = tuple(position.tolist())
        self._server.initial_camera.look_at = (0.0, 0.0, 0.0)
        self._fov_rad = math.radians(orbit.fov_deg)

    def _connect(self, client: Any) -> None:
        screen = BrowserScreen(client)
        page = Page(screen)
        screen.set_fov(self._fov_rad)
        self.painter.pages[client.client_id] = page
        client.camera.on_update(lambda _: self._move(page, screen))
        self._move(page, screen)

    def _disconnect(self, client: Any) -> None:
        page = self.painter.pages.pop(client.client_id, None)
        if page is not None:
            page.restart()  # cancels its picture

    def _move(self, page: Page, screen: BrowserScreen) -> None:
        pose = screen.pose()
        if pose is not None:
            page.move(pose, with_mesh=True)
            self.painter.wake()

    def _set_fov(self, fov_y_rad: float) -> None:
        self._fov_rad = fov_y_rad
        for page in list(self.painter.pages.values()):
            if isinstance(page.screen, BrowserScreen):
                page.screen.set_fov(fov_y_rad)
