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

"""The panel of the page: what it shows, and what its reader may choose. All pages share it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nemo_dreamfusion.viewer.control import FitControl
from nemo_dreamfusion.viewer.options import BACKGROUNDS, FOV_DEG, LARGEST, LAYERS, SMALLEST, Look, within


@dataclass(frozen=True)
class Actions:
    """What the panel's controls call."""

    on_look: Callable[[], None]
    on_fov: Callable[[float], None]  # radians
    on_mesh: Callable[[], None]
    on_turntable: Callable[[], None]


class Panel:
    """Tabs for the view, the fit and exports.

    Args:
        gui: viser's.
        resolution: of the picture, pixels.
        fov_deg: to begin with.
        control: of the fit; None: there is no fit.
        actions: what the controls call.
    """

    def __init__(
        self, gui: Any, *, resolution: int, fov_deg: float, control: FitControl | None, actions: Actions
    ) -> None:
        self._actions, self._control = actions, control
        self._pause: Any = None
        tabs = gui.add_tab_group()
        with tabs.add_tab('View'):
            self._make_view(gui, resolution, fov_deg)
        if control is not None:
            with tabs.add_tab('Fit'):
                self._make_fit(gui, control)
        with tabs.add_tab('Export'):
            mesh, turntable = gui.add_button('Mesh (.glb)'), gui.add_button('Turntable (.mp4)')
            mesh.on_click(lambda _: actions.on_mesh())
            turntable.on_click(lambda _: actions.on_turntable())
            self._exported = gui.add_text('Last file', 'none yet', multiline=True, disabled=True)

    @property
    def look(self) -> Look:
        """How the scene is shown, as the controls stand."""
        return Look.from_page(
            layer=self._layer.value,
            light_azimuth_deg=self._azimuth.value,
            light_elevation_deg=self._elevation.value,
            ambient=self._ambient.value,
            background=self._background.value,
            resolution=self._resolution.value,
            box=[slider.value for slider in self._box],
        )

    def say_exported(self, text: str) -> None:
        """Say what became of the last export."""
        self._exported.value = text

    def say_step(self, text: str) -> None:
        """Say where the fit is."""
        self._status.value = text

    def _make_view(self, gui: Any, resolution: int, fov_deg: float) -> None:
        self._layer = gui.add_dropdown('Show', LAYERS, initial_value=LAYERS[0])
        self._azimuth = gui.add_slider('Light: azimuth °', -180.0, 180.0, 5.0, 30.0)
        self._elevation = gui.add_slider('Light: elevation °', -90.0, 90.0, 5.0, 40.0)
        self._ambient = gui.add_slider('Light: ambient', 0.0, 1.0, 0.05, 0.3)
        self._background = gui.add_dropdown('Background', BACKGROUNDS, initial_value=BACKGROUNDS[0])
        self._resolution = gui.add_slider('Pixels', SMALLEST, LARGEST, 32, resolution)
        self._fov = gui.add_slider('Angle of view °', *FOV_DEG, 1.0, fov_deg)
        self._box = [gui.add_multi_slider(f'Box: {axis}', -1.0, 1.0, 0.05, (-1.0, 1.0)) for axis in 'xyz']
        changing = (self._layer, self._azimuth, self._elevation, self._ambient, self._background, self._resolution)
        for control in (*changing, *self._box):
            control.on_update(lambda _: self._actions.on_look())
        self._fov.on_update(lambda _: self._actions.on_fov(math.radians(within(self._fov.value, *FOV_DEG, fov_deg))))

    def _make_fit(self, gui: Any, control: FitControl) -> None:
        self._status = gui.add_text('Fit', 'has not begun', multiline=True, disabled=True)
        self._pause = gui.add_button('Pause')
        save, stop = gui.add_button('Save now'), gui.add_button('Stop', color='red')
        self._pause.on_click(lambda _: self._toggle(control))
        save.on_click(lambda _: control.save())
        stop.on_click(lambda _: control.stop())

    def _toggle(self, control: FitControl) -> None:
        if control.paused:
            control.resume()
        else:
            control.pause()
        self._pause.label = 'Go on' if control.paused else 'Pause'
