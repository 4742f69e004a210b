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

"""What the tests of the guidance share: tiny Stable Diffusions, renders, cameras, toy worlds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from guidance.toy_world import Toy
from small_diffusion import build_folder

from nemo_dreamfusion.modules.guidance.diffusion import NoiseSchedule
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput


@pytest.fixture(scope='session')
def closed_folder(tmp_path_factory) -> Path:
    """One whose tokenizer knows WORDS only."""
    return build_folder(tmp_path_factory.mktemp('sd') / 'closed', closed=True)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make_cameras(azimuth=(0.0, 90.0), elevation=(0.0, 0.0), size: int = 32) -> CameraBatch:
    """Cameras with the given angles; their poses are not read by the guidance."""
    count = len(azimuth)
    return CameraBatch(
        camera_to_world=torch.eye(4).repeat(count, 1, 1),
        fov_y_rad=torch.full((count,), 0.6),
        azimuth_deg=torch.tensor(azimuth),
        elevation_deg=torch.tensor(elevation),
        distance=torch.full((count,), 3.2),
        height=size,
        width=size,
    )


def make_render(count: int = 2, size: int = 32, *, normals: bool = True, seed: int = 1) -> RenderOutput:
    """A random render whose every tensor takes gradients."""
    rng = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> torch.Tensor:
        return torch.rand(count, size, size, channels, generator=rng).requires_grad_(True)

    return RenderOutput(image=draw(3), opacity=draw(1), depth=draw(1), normals=draw(3) if normals else None)


@pytest.fixture
def cameras() -> CameraBatch:
    return make_cameras()


@pytest.fixture
def render() -> RenderOutput:
    return make_render()


@pytest.fixture
def toy():
    return Toy


@pytest.fixture(scope='session')
def stable_diffusion_schedule() -> NoiseSchedule:
    return NoiseSchedule.from_config({'beta_schedule': 'scaled_linear', 'beta_start': 0.00085, 'beta_end': 0.012})


@pytest.fixture
def cameras_at():
    return make_cameras


@pytest.fixture
def render_of():
    return make_render


@pytest.fixture(scope='session')
def build_sd():
    return build_folder
