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

"""Times of the diffusion over the run."""

from __future__ import annotations

import pytest
import torch

from nemo_dreamfusion.modules.guidance.timesteps import DreamTimeTimesteps, SqrtTimesteps, UniformTimesteps
from nemo_dreamfusion.parts.schedules import linear_schedule


def times(progress, *, low=0.3, high=0.98, kind=UniformTimesteps, batch=512):
    return kind(min_step_ratio=low, max_step_ratio=high).sample(
        batch, 1000, progress, torch.Generator().manual_seed(0)
    )


def test_sqrt_annealing():
    found = [times(i / 25000, kind=SqrtTimesteps, batch=1).item() for i in (0, 6250, 25000)]
    assert found == [980, 640, 300]


def test_a_schedule_may_jump():
    schedule = [0.5, 0.98, 0.5, 0.5001]
    assert linear_schedule(schedule, 0.5) == 0.98
    assert linear_schedule(schedule, 0.5001) == 0.5
    assert linear_schedule([0.2, 0.98, 0.2, 0.8], 0.5) == pytest.approx((0.98 + 0.2) / 2)


def test_dreamtime():
    found = [DreamTimeTimesteps().time(share, 1000) for share in (0, 0.25, 0.5, 0.75)]
    assert found == pytest.approx([1000, 834, 681, 528], abs=1.5)
    assert all(a >= b for a, b in zip(found, found[1:]))


def test_the_range_is_annealed_and_both_ends_are_drawn():
    early, late = (times(p, low=0.02, high=[0.2, 0.98, 0.03, 0.8], batch=4000) for p in (0.0, 0.9))
    assert (early.min().item(), early.max().item()) == (20, 980)
    assert sorted(set(late.tolist())) == list(range(20, 31))


def test_times_stay_inside_the_table():
    assert times(0.0, low=1.0, high=1.0).max().item() == 999


@pytest.mark.parametrize(
    ('low', 'high'),
    [(0.5, 0.3), (0.02, 1.2), (-0.1, 0.9), (0.3, [0.2, 0.98, 0.2, 0.8]), (0.02, [0.8, 0.98, 0.5, 0.2]), (0.02, [1, 2]),
     (0.02, 'high'), (0.02, [0.0, 0.98, 0.5, float('nan')])],
)  # fmt: skip
def test_impossible_ranges_are_refused(low, high):
    with pytest.raises(ValueError, match='_step_ratio'):
        times(0.0, low=low, high=high)


@pytest.mark.parametrize('kind', [SqrtTimesteps, DreamTimeTimesteps])
def test_descending_times_are_one_for_the_batch_and_stay_in_the_range(kind):
    for progress in (0.0, 0.3, 0.7, 1.0):
        found = times(progress, low=0.4, high=0.6, kind=kind, batch=3)
        assert len(set(found.tolist())) == 1 and 400 <= found[0] <= 600
