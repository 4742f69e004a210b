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

"""Captions as the UNet reads them, and whether a model is seen to know its cameras."""

import pytest
import torch
from torch import nn

from nemo_dreamfusion.pocket.training import networks, texts
from nemo_dreamfusion.pocket.training.recognition import Pictures, measure_recognition
from nemo_dreamfusion.pocket.world.captions import KNOWN_WORDS, camera_words, write_caption

pytestmark = pytest.mark.unit

PROMPTS = ['a duck', 'a red cube', 'a car', 'a house with a green roof']


@pytest.fixture(scope='module')
def tokenizer():
    return networks.build_tokenizer(KNOWN_WORDS)


@pytest.fixture(scope='module')
def encoder(tokenizer):
    torch.manual_seed(0)
    return networks.build_text_encoder(tokenizer, 16).eval()


def encode(encoder, tokenizer, captions):
    return encoder(networks.tokenize(tokenizer, captions)).last_hidden_state


def test_a_view_of_the_table_is_its_own_caption(tokenizer, encoder):
    for view in camera_words()[::5]:
        angles = torch.tensor([view.azimuth_deg] * 4), torch.tensor([view.elevation_deg] * 4)
        states = texts.mix_states(encoder, *texts.tokenize_views(tokenizer, PROMPTS, *angles))
        expected = encode(encoder, tokenizer, [prompt + view.text for prompt in PROMPTS])
        torch.testing.assert_close(states, expected)
        assert write_caption('a duck', view.azimuth_deg, view.elevation_deg) == f'a duck, {view.name} view'


def test_a_camera_between_views_mixes_their_four_captions(tokenizer, encoder):
    azimuth, elevation = torch.tensor([45 * 0.25]), torch.tensor([15 + 30 * 0.4])
    states = texts.mix_states(encoder, *texts.tokenize_views(tokenizer, ['a duck'], azimuth, elevation))
    names = ('front level', 'front right level', 'front high', 'front right high')
    corners = encode(encoder, tokenizer, [f'a duck, {name} view' for name in names])
    shares = torch.tensor([0.75 * 0.6, 0.25 * 0.6, 0.75 * 0.4, 0.25 * 0.4])
    torch.testing.assert_close(states[0], (shares[:, None, None] * corners).sum(0))


def test_a_text_without_a_camera_is_itself(tokenizer, encoder):
    states = texts.mix_states(encoder, *texts.tokenize_plain(tokenizer, ['a duck', '']))
    torch.testing.assert_close(states, encode(encoder, tokenizer, ['a duck', '']))


def test_a_new_vocabulary_keeps_what_the_old_one_knew(tokenizer, encoder):
    old_tokenizer = networks.build_tokenizer(['a', 'duck', 'zeppelin', ','])
    old = networks.build_text_encoder(old_tokenizer, 16).eval()
    networks.adopt_text_encoder(encoder, tokenizer, old, old_tokenizer)
    torch.testing.assert_close(
        encode(encoder, tokenizer, ['a duck'])[:, :3], encode(old, old_tokenizer, ['a duck'])[:, :3]
    )


class Knowing(nn.Module):
    """A UNet for which every text tells the picture: it subtracts that picture from the noisy one."""

    def __init__(self, alphas):
        super().__init__()
        self.anchor, self.alphas = nn.Parameter(torch.zeros(1)), alphas

    def forward(self, noisy, time, states, class_labels, return_dict):
        clean = picture_of(states)
        alpha = self.alphas[time].view(-1, 1, 1, 1)
        return ((noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt(),)


def picture_of(states):
    return states.flatten(1)[:, -64:].view(-1, 4, 4, 4)


def test_cameras_are_recognised_by_a_model_that_knows_them(tokenizer, encoder):
    azimuth, elevation = torch.tensor([0.0, 80.0, -130.0, 10.0]), torch.tensor([-10.0, 15.0, 41.0, 60.0])
    with torch.no_grad():
        states = texts.mix_states(encoder, *texts.tokenize_views(tokenizer, PROMPTS, azimuth, elevation))
    alphas, schedule = networks.build_scheduler().alphas_cumprod, networks.build_schedule()
    pictures = Pictures(picture_of(states), PROMPTS, azimuth, elevation)
    model = nn.ModuleDict({'unet': Knowing(alphas), 'text_encoder': encoder})
    found = measure_recognition(model, tokenizer, schedule, pictures)
    assert found['azimuth_right'] == 1 and found['azimuth_error_deg'] == 0 and found['elevation_right'] == 1
    assert found['error'] < 1e-6 < found['error_turned']

    turned = Pictures(pictures.latents, PROMPTS, azimuth + 90, elevation)
    assert measure_recognition(model, tokenizer, schedule, turned)['azimuth_error_deg'] == 90
