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
from omegaconf import OmegaConf

from nemo_dreamfusion.launch import load_config
from nemo_dreamfusion.parts.views import read_views, table_weights
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
    for text in (*(f'{view.name} view' for view in VIEWS), *world.VIEWS, 'front right view', 'high view'):
        assert world.normalize(f'A red cube, {text}.') == 'a red cube'
        assert set(text.split()) <= set(world.KNOWN_WORDS)
    assert world.normalize('a red cube, some view') == 'a red cube, some view'


def test_camera_at_a_view_has_it_alone():
    azimuth, elevation = torch.tensor([[view.azimuth_deg, view.elevation_deg] for view in VIEWS]).T
    torch.testing.assert_close(table_weights(VIEWS, azimuth, elevation), torch.eye(len(VIEWS)))


def test_configuration_holds_the_same_views():
    rows = load_config('dreamfusion', ['model/views=pocket']).model.views
    assert read_views('model.views', OmegaConf.to_container(rows)) == tuple(VIEWS)


@pytest.mark.parametrize('azimuth', [-1e-9, 360.0, 359.99999])
def test_weights_just_below_a_full_turn(azimuth):
    weights = table_weights(VIEWS, torch.tensor([azimuth]), torch.tensor([15.0]))
    assert weights.sum() == pytest.approx(1) and VIEWS[weights.argmax()].name == 'front level'
