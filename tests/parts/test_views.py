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

"""Tables of views: how cameras between them mix, and what is refused."""

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.modules.guidance.prompts import PromptOptions, view_weights
from nemo_dreamfusion.parts.types import PromptSet
from nemo_dreamfusion.parts.views import View, read_views, table_weights

pytestmark = pytest.mark.unit

EIGHT = [
    View(f'{azimuth} at {elevation}', azimuth, elevation) for elevation in (0, 40) for azimuth in (0, 90, 180, 270)
]


def mix(views, azimuth, elevation):
    return table_weights(views, torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]))[0].tolist()


def test_cameras_mix_their_neighbours_by_azimuth_and_by_elevation():
    assert mix(EIGHT, 30, 10) == pytest.approx([2 / 3 * 0.75, 1 / 3 * 0.75, 0, 0, 2 / 3 * 0.25, 1 / 3 * 0.25, 0, 0])
    assert mix(EIGHT, -30, -20) == pytest.approx([2 / 3, 0, 0, 1 / 3, 0, 0, 0, 0])
    assert mix(EIGHT, 720 - 90, 80) == pytest.approx([0, 0, 0, 0, 0, 0, 0, 1])


def test_order_of_the_table_does_not_matter():
    order = torch.randperm(len(EIGHT))
    azimuth, elevation = torch.rand(50) * 720 - 360, torch.rand(50) * 180 - 90
    shuffled = table_weights([EIGHT[i] for i in order], azimuth, elevation)
    torch.testing.assert_close(shuffled, table_weights(EIGHT, azimuth, elevation)[:, order])
    torch.testing.assert_close(shuffled.sum(1), torch.ones(50))


def test_nemos_views_are_a_table_with_both_sides():
    azimuth = torch.linspace(-200, 400, 61)
    four = view_weights(azimuth, torch.zeros(61), PromptOptions())[:, :3]
    front, side, back, other_side = table_weights(EIGHT[:4], azimuth, torch.zeros(61)).unbind(1)
    torch.testing.assert_close(torch.stack([front, side + other_side, back], 1), four, atol=1e-5, rtol=0)


def test_a_single_view_has_all_the_weight():
    assert mix([View('any', 10, 20)], -100, 70) == [1.0]


def test_texts_are_added_to_the_prompt_or_take_its_place():
    views = (View('front', 0, 0, ', from the front'), View('back', 180, 0, prompt='the tail of a duck'))
    assert PromptSet('a duck', views=views).by_view() == {
        'front': 'a duck, from the front',
        'back': 'the tail of a duck',
    }


@pytest.mark.parametrize(
    ('change', 'key', 'value', 'way_out'),
    [
        ({'azimuth': 4}, 'model.views[1].azimuth', NO_VALUE, 'azimuth_deg'),
        ({'azimuth_deg': '90 degrees'}, 'model.views[1].azimuth_deg', '90 degrees', 'number'),
        ({'azimuth_deg': 500}, 'model.views[1].azimuth_deg', 500, 360),
        ({'elevation_deg': -91}, 'model.views[1].elevation_deg', -91, 'at least -90'),
        ({'name': 'front'}, 'model.views[1]', 'front', 'another name'),
        ({'azimuth_deg': 360}, 'model.views[1]', 'side', 'another azimuth_deg'),
    ],
)
def test_rows_that_cannot_be_read_are_refused_by_their_place(change, key, value, way_out):
    rows = [
        {'name': 'front', 'azimuth_deg': 0, 'elevation_deg': 0},
        {'name': 'side', 'azimuth_deg': 90, 'elevation_deg': 0},
    ]
    with refusal(key, value, way_out):
        read_views('model.views', [rows[0], rows[1] | change])


def test_a_row_without_a_direction_is_refused():
    with refusal('model.views[0].elevation_deg', NO_VALUE, 'azimuth_deg'):
        read_views('model.views', [{'name': 'front', 'azimuth_deg': 0}])
