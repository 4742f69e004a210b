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


"""A small model and a guidance whose optimum is known, for the tests of the NeMo model."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.parts.types import GuidanceOutput

CONF = Path(__file__).parents[1] / 'nemo_dreamfusion' / 'conf'
WEAK_LOSSES = (  # of the releases before; beside a guidance that is a mean, the recipe's weights would be all that counts
    'model.loss.lambda_opacity=0',
    'model.loss.lambda_entropy=0.001',
    'model.loss.lambda_z_variance=0',
)
SMALL = [
    *WEAK_LOSSES,
    'model.nerf.encoder_cfg={num_levels: 4, log2_hashmap_size: 10, desired_resolution: 32}',
    'model.nerf.sigma_net_cfg={num_hidden_dims: 16, num_layers: 2}',
    'model.nerf.features_net_cfg={num_hidden_dims: 16, num_layers: 2}',
    'model.renderer.max_steps=48',
    'model.renderer.grid_resolution=16',
    'model.resolution=16',
    'model.latent_resolution=16',
    'trainer.max_steps=8',
    'trainer.accelerator=cpu',
    'turntable_frames=6',
    'turntable_size=32',
    'texture_size=64',
    'mesh_faces=500',
]
NO_PICTURES = ['pictures=[]', 'turntable_frames=0', 'mesh_resolution=0']  # of a fit whose files are not the point


class TowardColour(Guidance):
    """Wants every pixel to have one colour, so that what a fit does is known."""

    def __init__(self, color=(1.0, 0.0, 0.0)):
        super().__init__()
        self.color = torch.tensor(color)
        self.calls = []

    def prepare(self, prompts, device):
        self.network = torch.nn.Linear(2, 2)  # weights that no checkpoint may hold

    def loss(self, render, cameras, *, step, progress, latent, generator):
        self.calls.append((step, latent, tuple(render.image.shape), cameras.azimuth_deg.tolist()))
        loss = (render.image - self.color).square().mean()
        none = torch.zeros(len(cameras), dtype=torch.int64)
        return GuidanceOutput(loss=loss, timesteps=none, gradient_norm=loss.detach())


def small_config(*overrides: str) -> DictConfig:
    """``dreamfusion.yaml`` shrunk until a step takes milliseconds."""
    with initialize_config_dir(str(CONF), version_base=None):
        return compose('dreamfusion', overrides=[*SMALL, *overrides])
