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

"""Galleries of true scenes: near misses in them, drawn by seed; ranks of the true object, of another and of nothing."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.pocket.metrics import render_truth
from nemo_dreamfusion.pocket.metrics.retrieval import (
    choose_gallery,
    compute_retrieval_rank,
    is_scene,
    list_near_misses,
)
from nemo_dreamfusion.pocket.world import prompts as world

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ('prompt', 'near'),
    [
        ('a red cube', {'a blue cube', 'an orange cube', 'a red sphere'}),
        ('a duck', {'a house', 'an ice cream cone'}),
        (
            'a red cube on top of a blue cylinder',
            {
                'an orange cube on top of a blue cylinder',
                'a red cube on top of a blue cone',
                'a red sphere on top of a blue cylinder',
                'a blue cylinder on top of a red cube',
            },
        ),
    ],
)
def test_near_misses_differ_in_one_word(prompt, near):
    found = list_near_misses(prompt)
    assert near <= set(found) and prompt not in found and len(set(found)) == len(found) and all(map(is_scene, found))


def test_gallery_is_full_and_drawn_by_seed():
    gallery = choose_gallery('a red cube')
    assert len(set(gallery)) == len(gallery) == 200 and gallery[0] == 'a red cube' and all(map(is_scene, gallery))
    assert set(list_near_misses('a red cube')) <= set(gallery)
    assert gallery == choose_gallery('a red cube') != choose_gallery('a red cube', seed=1)


def test_true_scene_is_first_and_another_behind_its_own():
    truth = render_truth(world.normalize('a red cube'), 64).image
    scenes = choose_gallery('a red cube', count=40)
    assert compute_retrieval_rank(truth, 'a red cube', scenes) == 1
    assert compute_retrieval_rank(truth, 'a red cylinder', scenes) > 1
    assert compute_retrieval_rank(truth, 'a house', world.SUITE) > 1
    dark = truth.clone()
    dark[dark[..., 1] < 0.5] *= 0.8  # a little too dark is still the red cube
    assert compute_retrieval_rank(dark, 'a red cube', scenes) == 1


def test_wrong_input_is_refused():
    with refusal('gallery', 1, 'at least 2'):
        choose_gallery('a red cube', count=1)
    with refusal('images', 8, '16'):
        compute_retrieval_rank(torch.ones(8, 64, 64, 3), 'a red cube', world.SUITE)
