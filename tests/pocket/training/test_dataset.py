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

"""Captioned renders and their backgrounds."""

import numpy as np
import pytest
import torch

from nemo_dreamfusion.pocket.training import dataset
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import CameraRange

pytestmark = pytest.mark.unit


def test_renders_have_their_prompts_and_views(tmp_path):
    made = dataset.make_renders(tmp_path, images=3, size=16, seed=5, workers=1, cameras=CameraRange())
    again = dataset.make_renders(tmp_path, images=3, size=16, seed=5, workers=1, cameras=CameraRange())
    assert made.prompts == again.prompts and (made.rgba == again.rgba).all()
    assert made.azimuth_deg.dtype == made.elevation_deg.dtype == np.float32
    assert made.azimuth_deg.shape == made.elevation_deg.shape == (len(made),) == (3,)
    for prompt in made.prompts:
        assert world.normalize(prompt) == prompt
        world.build_scene(prompt)


def test_a_rest_too_small_for_an_object_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, '_SHARD', 4)
    made = dataset.make_renders(tmp_path, images=5, size=16, seed=5, workers=1, cameras=CameraRange(), views=4)
    assert len(made) == 4 and len(set(made.prompts)) == 1


def test_views_reach_down_and_up():
    rng = np.random.default_rng(0)
    elevations = np.array([dataset.draw_view(rng, CameraRange())[1] for _ in range(4000)])
    assert (elevations > 60).mean() == pytest.approx(0.15, abs=0.02)
    assert -15 <= elevations.min() < -14 and 84 < elevations.max() <= 85


def test_backgrounds_are_white_for_three_in_ten():
    colors = dataset.draw_backgrounds(20000, np.random.default_rng(0))
    assert (colors == 1).all(1).mean() == pytest.approx(0.3, abs=0.02)
    assert (np.ptp(colors, axis=1) == 0).mean() == pytest.approx(0.6, abs=0.02)


def test_composition_is_colour_over_background():
    rgba = np.zeros((1, 1, 1, 4), np.uint8)
    rgba[0, 0, 0] = (51, 0, 0, 102)  # red 0.2, already multiplied by an opacity of 0.4
    background = dataset.draw_backgrounds(1, np.random.default_rng(3))[0]
    image = dataset.Renders(rgba, [''], np.zeros(1, np.float32), np.zeros(1, np.float32)).compose(
        np.array([0]), np.random.default_rng(3)
    )
    expected = np.array([0.2, 0, 0]) + (1 - 0.4) * background
    torch.testing.assert_close((image[0, :, 0, 0] + 1) / 2, torch.from_numpy(expected).float())
