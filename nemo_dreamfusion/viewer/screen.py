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

"""A browser's page as a screen for the painter."""

from __future__ import annotations

from typing import Any

import numpy as np

from nemo_dreamfusion.viewer.cameras import Pose

COARSE, FINE = 60, 85  # quality of JPEG, below and from 128 pixels


class BrowserScreen:
    """Shows pictures behind viser's scene, and the mesh in it.

    Args:
        client: viser's handle of the page.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._mesh: Any = None

    def pose(self) -> Pose | None:
        """Return where the page's camera stands."""
        camera = self._client.camera
        return Pose.from_page(camera.position, camera.wxyz, camera.fov, camera.aspect)

    def set_fov(self, fov_y_rad: float) -> None:
        """Change the page's angle of view."""
        self._client.camera.fov = fov_y_rad

    def show(self, picture: np.ndarray) -> None:
        quality = COARSE if len(picture) < 128 else FINE
        self._client.scene.set_background_image(picture, format='jpeg', jpeg_quality=quality)
        if self._mesh is not None:
            self._mesh.visible = False

    def show_mesh(self) -> None:
        if self._mesh is not None and not self._mesh.visible:
            self._mesh.visible = True
            self._client.scene.set_background_image(None)

    def set_mesh(self, glb: bytes) -> None:
        visible = self._mesh is not None and self._mesh.visible
        self._mesh = self._client.scene.add_glb('/object', glb, visible=visible, cast_shadow=False)
