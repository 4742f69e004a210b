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

"""The weights that ship."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_dreamfusion.parts.images import compute_psnr
from nemo_dreamfusion.pocket.training import dataset, networks, vae
from nemo_dreamfusion.pocket.world.render import CameraRange

pytestmark = pytest.mark.unit

WEIGHTS = Path(__file__).parents[2] / 'nemo_dreamfusion' / 'pocket' / 'weights'
MAX_BYTES = 16e6


def test_weights_that_ship_are_small_and_complete():
    total = sum(path.stat().st_size for path in WEIGHTS.rglob('*') if path.is_file())
    assert total <= MAX_BYTES
    for name in ('README.md', 'samples.png', 'model_index.json', 'tokenizer/vocab.json', 'tokenizer/merges.txt'):
        assert (WEIGHTS / name).is_file()
    assert (WEIGHTS / 'samples.png').stat().st_size < 400e3


@pytest.fixture(scope='module')
def shipped():
    return networks.load_pipeline(WEIGHTS)


def test_weights_that_ship_load_by_the_ordinary_classes(shipped):
    ids = networks.tokenize(shipped.tokenizer, ['a duck, side view'])
    states = shipped.text_encoder(ids).last_hidden_state
    assert states.shape == (1, shipped.tokenizer.model_max_length, shipped.unet.config.cross_attention_dim)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert shipped.unet(noise, 500, states).sample.shape == noise.shape
    assert shipped.tokenizer.tokenize('hamburger') == ['hamburger</w>']


def test_autoencoder_that_ships_reconstructs_fresh_renders(shipped, tmp_path):
    fresh = dataset.make_renders(tmp_path, images=12, size=64, seed=77, workers=1, cameras=CameraRange())
    images = fresh.compose(np.arange(12), np.random.default_rng(0))
    assert compute_psnr(images, vae.reconstruct(shipped.vae, images), vae.SPAN) > 24
    latents = shipped.vae.encode(images).latent_dist.mode() * shipped.vae.config.scaling_factor
    assert 0.5 < latents.std().item() < 2
