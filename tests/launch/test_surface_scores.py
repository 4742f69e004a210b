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

"""The mesh against the true surface, of fields that are the true scene, that scene painted wrong, and nothing."""

import pytest
import torch
from torch import nn

from nemo_dreamfusion.launch.surface_scores import score_mesh, score_surface
from nemo_dreamfusion.parts.types import FieldOutput
from nemo_dreamfusion.pocket.world.prompts import build_scene

PROMPT = 'a red cube'
SMALL = dict(resolution=64, points=20_000)


class TrueField(nn.Module):
    """The scene of a prompt as a field, with another colour where one is given."""

    bound = 1.0

    def __init__(self, prompt=PROMPT, color=None, peak=400.0):
        super().__init__()
        self.scene, self.color, self.peak = build_scene(prompt), color, peak

    def density(self, positions):
        return self.peak * torch.sigmoid(-self.scene.signed_distance(positions) / 0.002)

    def forward(self, positions):
        albedo = self.scene.albedo(positions) if self.color is None else torch.tensor(self.color).expand_as(positions)
        return FieldOutput(self.density(positions), albedo)


class Holder:
    """A model as far as its field goes."""

    def __init__(self, **options):
        self.nerf = TrueField(**options)


def test_the_true_scene_scores_best():
    scores = score_mesh(Holder(), PROMPT, **SMALL)
    assert scores['f_score_2'] > 0.98 and scores['chamfer'] < 0.03  # a voxel is 0.032 wide
    assert scores['normal_consistency'] > 0.95 and scores['surface_delta_e'] < 1
    assert scores['components'] == 1 and scores['watertight'] is True


def test_a_wrong_colour_and_a_wrong_shape_are_seen():
    assert score_mesh(Holder(color=[0.0, 0.0, 1.0]), PROMPT, **SMALL)['surface_delta_e'] > 30
    other = score_mesh(Holder(prompt='a duck'), PROMPT, **SMALL)
    assert other['f_score_2'] < 0.6 and other['chamfer'] > 0.05


def test_an_object_without_a_surface_is_the_worst():
    scores = score_mesh(Holder(peak=1e-4), PROMPT, **SMALL)
    assert scores['f_score_2'] == 0 and scores['chamfer'] == 2 and scores['components'] == 0
    assert scores['surface_delta_e'] is None and scores['watertight'] is False
    assert score_surface(Holder(peak=1e-4), PROMPT, **SMALL)['f_score_1'] == 0


def test_an_object_of_another_world_is_refused():
    with pytest.raises(ValueError, match='zeppelin'):
        score_mesh(Holder(), 'a zeppelin', **SMALL)
