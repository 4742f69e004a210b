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

"""What the tests of the guidance share: tiny Stable Diffusions, renders, cameras, and toy worlds with known answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_diffusion import build_folder

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule
from nemo_dreamfusion.parts.types import CameraBatch, RenderOutput


@pytest.fixture(scope='session')
def sd_folder(tmp_path_factory) -> Path:
    """An open-vocabulary, epsilon-predicting Stable Diffusion."""
    return build_folder(tmp_path_factory.mktemp('sd') / 'open')


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


class ToyNetwork:
    """The exact answer for Gaussian data N(mu, s0^2), which the context [N, 1, 2] carries: eps = sigma (x_t - a mu) / V.

    V = a^2 s0^2 + sigma^2. ``speaks`` says in which of the prediction types it answers; ``rows`` counts its work.
    """

    def __init__(self, schedule: NoiseSchedule, *, speaks: str = 'epsilon', shift: float = 0.0) -> None:
        self.schedule, self.speaks, self.shift, self.rows = schedule, speaks, shift, 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        mu, s0 = (context[:, 0, i].view(-1, 1, 1, 1) for i in (0, 1))
        a, sigma = self.schedule.signal_and_noise(t)
        eps = sigma * (x - a * mu) / (a**2 * s0**2 + sigma**2) + self.shift
        x0 = (x - sigma * eps) / a
        return {'epsilon': eps, 'v_prediction': a * eps - sigma * x0, 'sample': x0}[self.speaks]


class Toy:
    """The toy world of scores.md: by default a = sigma = sqrt(.5) at every time ("hand"), or any table of abar."""

    def __init__(
        self, abar=(0.5,), *, speaks: str = 'epsilon', read_as: str | None = None, shift: float = 0.0
    ) -> None:
        self.schedule = NoiseSchedule(torch.tensor(abar, dtype=torch.float64), read_as or speaks)
        self.network = ToyNetwork(self.schedule, speaks=speaks, shift=shift)
        self.model = NoiseModel(self._in_double, self.schedule)

    def _in_double(self, x, t, context):
        return _Double(self.network(x, t, context))

    @staticmethod
    def text(mu: float, s0: float = 0.5, batch: int = 1) -> torch.Tensor:
        """A context [batch, 1, 2]."""
        return torch.tensor([[[mu, s0]]], dtype=torch.float64).expand(batch, 1, 2)


class _Double(torch.Tensor):
    """Float64 that stays so where the package rounds to float32: the toys' answers are checked to many digits."""

    def float(self):
        return self.as_subclass(torch.Tensor)


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
