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

"""Captions of views, and the shares of the views around a camera."""

import pytest
import torch

from nemo_dreamfusion.pocket.world import prompts as world

pytestmark = pytest.mark.unit

VIEWS = world.camera_words()


@pytest.mark.parametrize(
    ('azimuth', 'elevation', 'view'),
    [
        (0, 10, 'front level'),
        (-22, -1, 'front low'),
        (338, 1, 'front level'),
        (23, 31, 'front right high'),
        (-90, 61, 'left side high'),
        (112, 63, 'right side overhead'),
        (180, 89, 'back overhead'),
        (-180, -40, 'back low'),
        (-100, 20, 'left side level'),
    ],
)
def test_caption_names_the_nearest_view(azimuth, elevation, view):
    assert world.write_caption('a duck', azimuth, elevation) == f'a duck, {view} view'


def test_every_caption_is_stripped_and_known():
    assert len({view.text for view in VIEWS}) == len(VIEWS) == 32
    for text in (*(view.text for view in VIEWS), *world.VIEWS, 'front right view', 'high view'):
        assert world.normalize(f'A red cube, {text}.') == 'a red cube'
        assert set(text.split()) <= set(world.KNOWN_WORDS)
    assert world.normalize('a red cube, some view') == 'a red cube, some view'


def test_camera_at_a_view_has_it_alone():
    azimuth, elevation = torch.tensor([[view.azimuth_deg, view.elevation_deg] for view in VIEWS]).T
    index, weights = world.mix_weights(azimuth, elevation)
    mixed = torch.zeros(len(VIEWS), len(VIEWS)).scatter_add(1, index, weights)
    torch.testing.assert_close(mixed, torch.eye(len(VIEWS)))


def test_weights_are_bilinear_and_go_round():
    azimuth, elevation = torch.tensor([-9.0, 351.0, 190.0, 45.0]), torch.tensor([20.0, 20.0, 85.0, -40.0])
    index, weights = world.mix_weights(azimuth, elevation)
    assert index.dtype == torch.int64 and index.shape == weights.shape == (4, 4)
    found = [{VIEWS[i].name: w for i, w in zip(*row) if w > 1e-5} for row in zip(index.tolist(), weights.tolist())]
    first = {
        'front level': 0.8 * 5 / 6,
        'front left level': 0.2 * 5 / 6,
        'front high': 0.8 / 6,
        'front left high': 0.2 / 6,
    }
    assert found[0] == pytest.approx(first, abs=1e-4) and found[1] == pytest.approx(first, abs=1e-4)
    assert found[2] == pytest.approx({'back overhead': 7 / 9, 'back left overhead': 2 / 9}, abs=1e-4)
    assert found[3] == pytest.approx({'front right low': 1})


@pytest.mark.parametrize('azimuth', [-1e-9, 360.0, 359.99999])
def test_weights_just_below_a_full_turn(azimuth):
    index, weights = world.mix_weights(torch.tensor([azimuth]), torch.tensor([15.0]))
    assert 0 <= index.min() and index.max() < 32 and weights.sum() == pytest.approx(1)
    assert VIEWS[index[0, weights[0].argmax()]].name == 'front level'
