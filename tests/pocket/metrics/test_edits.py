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

"""Scores of an edit where they are known."""

import pytest
import torch

from nemo_dreamfusion.pocket.metrics.edits import EditViews, find_kept, score_edit
from nemo_dreamfusion.pocket.world.render import Render

RED, BLUE, GREEN = ((0.85, 0.08, 0.07), (0.08, 0.2, 0.85), (0.1, 0.6, 0.14))


def two_blocks(upper, lower, height=16):
    """White pictures [2, 32, 32] with a block of one colour above another's; the upper is ``height`` pixels high."""
    image, opacity = torch.ones(2, 32, 32, 3), torch.zeros(2, 32, 32)
    for color, rows in ((upper, slice(16 - height, 16)), (lower, slice(16, 32))):
        image[:, rows, 8:24] = torch.tensor(color)
        opacity[:, rows, 8:24] = 1
    return Render(image, opacity)


UPPER = two_blocks(RED, GREEN).opacity.bool()
UPPER[:, 16:] = False


def test_a_perfect_edit():
    before, after = two_blocks(RED, GREEN), two_blocks(BLUE, GREEN)
    scores = score_edit(EditViews(before, after, before, after, UPPER))
    assert scores == {'changed_delta_e': 0.0, 'kept_psnr_db': 100.0, 'iou_before': 1.0, 'iou_truth': 1.0}


def test_what_was_not_done_and_what_was_done_too_much():
    before, after = two_blocks(RED, GREEN), two_blocks(BLUE, GREEN)
    too_little = score_edit(EditViews(before, before, before, after, UPPER))
    assert too_little['changed_delta_e'] > 40 and too_little['kept_psnr_db'] == 100.0
    shifted = tuple(channel + 0.01 for channel in GREEN)
    too_much = score_edit(EditViews(before, two_blocks(BLUE, shifted), before, after, UPPER))
    assert too_much['changed_delta_e'] == 0.0 and too_much['kept_psnr_db'] == pytest.approx(40.0, abs=1e-3)
    small = two_blocks(BLUE, GREEN, height=8)
    lower = score_edit(EditViews(before, small, before, small, UPPER))
    assert lower['iou_before'] == pytest.approx(24 / 32) and lower['iou_truth'] == 1.0


def test_pixels_near_a_change_are_not_kept():
    kept = find_kept(two_blocks(RED, GREEN), two_blocks(BLUE, GREEN))
    assert kept.sum() == 2 * 14 * 16 and not kept[0, :18].any()


def test_nothing_to_score_is_none():
    same = two_blocks(RED, GREEN)
    assert score_edit(EditViews(same, same, same, same, torch.zeros_like(UPPER)))['changed_delta_e'] is None
