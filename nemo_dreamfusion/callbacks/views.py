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

"""Views of the scene while it is fitted, as the callbacks render them."""

from __future__ import annotations

from typing import Protocol, cast

import lightning.pytorch as pl

from nemo_dreamfusion.data.datamodule import camera_data
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput


class RendersCameras(Protocol):
    """What a callback needs of the model, such as a ``DreamFusion``."""

    def render_cameras(self, cameras: CameraBatch) -> RenderOutput:
        """Render B views, without a gradient."""


def render_cameras(pl_module: pl.LightningModule, cameras: CameraBatch) -> RenderOutput:
    """Render B views of the model's scene as it stands."""
    return cast(RendersCameras, pl_module).render_cameras(cameras)


def make_orbit(trainer: pl.Trainer, views: int, size: int) -> OrbitCameras:
    """Return the data module's test orbit with another number of views, square images of ``size`` pixels a side."""
    return camera_data(trainer).test_cameras.resized(views, size)
