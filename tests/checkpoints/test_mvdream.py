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

"""MVDream's published layout against what MVDream's own modules gave, and the folder that is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.mvdream_file import MVDreamFile, read_tensors
from nemo_dreamfusion.modules.guidance.families.base import append_vector
from nemo_dreamfusion.modules.guidance.families.mvdream import MultiViewNoisePredictor, camera_numbers

DATA = Path(__file__).resolve().parents[1] / 'data' / 'mvdream' / 'sd21_4view_small'
FILE = DATA.with_suffix('.pt')


@pytest.fixture(scope='module')
def known():
    return {name: torch.tensor(value) for name, value in np.load(DATA.with_suffix('.npz')).items()}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp('mvdream') / 'folder'
    notes = convert(str(FILE), str(target), head_channels=16)
    assert len(notes) == 1 and 'no text encoder' in notes[0]
    return target


def checkpoint(folder) -> DiffusersCheckpoint:
    return DiffusersCheckpoint(str(folder), families=('mvdream',))


ANSWERS = [(4, True, 'eps'), (1, True, 'eps_single_view'), (1, False, 'eps_no_camera')]


@pytest.mark.parametrize(('views', 'camera', 'expected'), ANSWERS)
def test_the_unet_of_the_folder_gives_what_mvdream_gave(folder, known, views, camera, expected):
    unet = checkpoint(folder).unet(torch.float32)
    predict = MultiViewNoisePredictor(unet, views=views)
    with torch.no_grad():
        if camera:
            found = predict(known['x'], known['t'], append_vector(known['context'], known['camera']))
        else:
            unet.class_embedding = None
            found = unet(known['x'], known['t'], known['context']).sample
    assert (found - known[expected]).abs().max() < 1e-4
    others = [
        (found - known[name]).abs().max() for name in ('eps', 'eps_single_view', 'eps_no_camera') if name != expected
    ]
    assert min(others) > 1e-3  # each answer is its own


def test_the_vae_of_the_folder_gives_what_mvdream_gave(folder, known):
    vae = checkpoint(folder).vae(torch.float32)
    with torch.no_grad():
        assert (vae.encode(known['image']).latent_dist.parameters - known['moments']).abs().max() < 1e-4


def test_cameras_are_told_as_mvdream_was_told(known):
    torch.testing.assert_close(camera_numbers(known['camera_to_world']), known['camera'][:4], rtol=0, atol=1e-6)


def test_the_folder_is_one_of_diffusers_and_of_its_own_family(folder):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / 'unet', torch_dtype=torch.float16)
    assert unet.config.class_embed_type == 'projection'
    stored = read_tensors(FILE)['model.diffusion_model.camera_embed.2.weight']
    assert torch.equal(unet.class_embedding.linear_2.weight, stored) and stored.dtype == torch.float16
    assert checkpoint(folder).family.name == 'mvdream'
    with refusal('model.guidance.source', str(folder), 'sd (Stable Diffusion'):
        DiffusersCheckpoint(str(folder)).check()


def test_heads_of_the_published_files():
    """64 channels a head where projections are linear, as in 2.1; 8 heads where they are convolutions, as in 1.5."""
    state = read_tensors(FILE)
    with refusal('head_channels', 64, 'head_channels'):
        MVDreamFile(state, 'small').unet()
    convolved = {
        k: v[..., None, None] if k.endswith(('proj_in.weight', 'proj_out.weight')) else v for k, v in state.items()
    }
    assert MVDreamFile(convolved, 'small').unet().config.attention_head_dim == [8, 8, 8, 8]


def test_other_files_are_refused(tmp_path):
    torch.save({'model.diffusion_model.x': torch.zeros(1)}, tmp_path / 'other.pt')
    with refusal('source', str(tmp_path / 'other.pt'), 'a UNet without VAE'):
        convert(str(tmp_path / 'other.pt'), str(tmp_path / 'target'))
    with refusal('head_channels', 16, 'left out'):
        convert('pocket', str(tmp_path / 'pocket.nemo'), head_channels=16)
    with refusal('target', NO_VALUE, 'folder'):
        convert(str(FILE), str(tmp_path / 'target.nemo'))
