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

"""A scene that is a ball of known radius, in a model that fits one number, with the data module that all share."""

import lightning.pytorch as pl
import pytest
import torch

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.data.datamodule import CameraDataModule
from nemo_dreamfusion.data.samplers import OrbitCameras, RandomCameras
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.parts.types import FieldOutput, RenderOutput


class BallField(torch.nn.Module):
    """Dense inside of a radius; red toward +x, green toward +y, blue toward +z."""

    bound = 1.0

    def __init__(self):
        super().__init__()
        self.radius = torch.nn.Parameter(torch.tensor(0.5))

    def density(self, positions):
        return 200.0 * torch.sigmoid((self.radius - positions.norm(dim=-1)) * 200)

    def forward(self, positions, *, with_albedo=True):
        return FieldOutput(density=self.density(positions), albedo=(positions + 1) / 2)


class BallModel(pl.LightningModule):
    """Its render is the exact disk of the ball; ``at_step`` lets a test act inside of a training step."""

    def __init__(self, at_step=lambda model, step: None):
        super().__init__()
        self.nerf = BallField()
        self.at_step = at_step
        self.rendered = []

    @property
    def scene(self):
        return Scene(field=self.nerf, material=BasicShading(), background=StaticBackground(color=[1.0, 1.0, 1.0]))

    def render_background(self, cameras):
        return torch.ones(len(cameras), cameras.height, cameras.width, 3)

    def render_cameras(self, cameras, *, with_normals=False):
        self.rendered.append(cameras)
        bundle = rays(cameras)
        along = (bundle.origins * bundle.directions).sum(-1, keepdim=True)
        nearest = bundle.origins - along * bundle.directions
        radius = self.nerf.radius.detach()
        opacity = (nearest.norm(dim=-1, keepdim=True) < radius).float().view(*bundle.image_shape, 1)
        image = opacity * torch.tensor([1.0, 0.0, 0.0]) + 1 - opacity
        half = (radius**2 - nearest.square().sum(-1, keepdim=True)).clamp(min=0).sqrt()  # of the chord
        depth = opacity * (-along - half).view_as(opacity)
        points = bundle.origins.view_as(image) + depth * bundle.directions.view_as(image)
        normals = opacity * torch.nn.functional.normalize(points, dim=-1) if with_normals else None
        return RenderOutput(image=image, opacity=opacity, depth=depth, normals=normals)

    def training_step(self, batch, batch_idx):
        self.at_step(self, self.global_step)
        noise = torch.rand((), generator=torch.Generator().manual_seed(self.global_step))
        self.log_dict({'loss': noise, 'opacity': 0.25, 'gradient_norm': 2.0})
        return (self.nerf.radius - 0.6 - 0.01 * noise) ** 2

    def validation_step(self, batch, batch_idx):
        return self.render_cameras(batch)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@pytest.fixture
def ball():
    """The model's class."""
    return BallModel


@pytest.fixture
def cameras():
    """A fresh data module."""
    train = RandomCameras(batch_size=1, distance_range=[3, 3.5], elevation_range_deg=[0, 30], fov_range_deg=[36, 36])
    orbit = OrbitCameras(views=3, elevation_deg=20, distance=3.2, fov_deg=36, height=24, width=24)
    return CameraDataModule(train=train, val=orbit, test=orbit)


@pytest.fixture
def trainer(tmp_path):
    """Makes a quiet trainer in a temporary folder."""

    def make(*callbacks, max_steps=6, **options):
        quiet = dict(accelerator='cpu', logger=False, enable_model_summary=False, num_sanity_val_steps=0)
        quiet['enable_checkpointing'] = any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks)
        quiet['enable_progress_bar'] = any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks)
        root = dict(default_root_dir=tmp_path, callbacks=list(callbacks), max_steps=max_steps)
        return pl.Trainer(**{**quiet, **root, **options})

    return make
