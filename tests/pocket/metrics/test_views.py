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

"""Metrics of the true scene, of wrong ones and of nothing."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.pocket import metrics
from nemo_dreamfusion.pocket.world import prompts as world

pytestmark = pytest.mark.unit

SIZE = 32


def true_render(prompt, size=SIZE):
    return metrics.render_truth(world.normalize(prompt), size)


def test_there_are_sixteen_views():
    assert metrics.build_cameras().shape == (16, 4, 4)
    assert metrics.VIEWS_DEG[0] == (0, 10) and metrics.VIEWS_DEG[10] == (90, 40)


@pytest.mark.parametrize('prompt', ['a duck', 'a red cube on top of a blue cylinder'])
def test_true_scene_scores_best(prompt):
    truth = true_render(prompt)
    result = metrics.score(truth.image, truth.opacity, prompt)
    assert result['iou'] == 1 and result['psnr_db'] == pytest.approx(100)
    assert result['view_accuracy'] == (1 if prompt == 'a duck' else None)


def test_duck_turned_round_has_its_views_wrong():
    truth = true_render('a duck')
    turned = [(i // 8) * 8 + (i % 8 + 4) % 8 for i in range(16)]
    result = metrics.score(truth.image[turned], truth.opacity[turned], 'a duck')
    assert result['iou'] < 0.9 and result['view_accuracy'] == 0


def test_another_object_scores_low():
    truth = true_render('a house')
    result = metrics.score(truth.image, truth.opacity, 'a duck')
    assert result['iou'] < 0.8 and result['psnr_db'] < 20


def test_nothing_scores_zero():
    result = metrics.score(torch.ones(16, SIZE, SIZE, 3), torch.zeros(16, SIZE, SIZE), 'a duck')
    assert result['iou'] == 0


def test_wrong_shapes_are_refused():
    with refusal('images', (8, SIZE, SIZE, 3), '[16, H, H, 3]'):
        metrics.score(torch.ones(8, SIZE, SIZE, 3), torch.zeros(8, SIZE, SIZE), 'a duck')
