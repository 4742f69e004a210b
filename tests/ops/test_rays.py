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

"""What samples have of their rays: kernels against the reference, and how little of a solid object is asked for."""

import math

import pytest
import torch

from nemo_dreamfusion.ops.compositing import visible_counts, visible_prefix
from nemo_dreamfusion.ops.marching import keep_first
from nemo_dreamfusion.ops.rays import (
    density_front_to_back,
    front_to_back_reference,
    positions_on_rays,
    values_of_rays,
)
from nemo_dreamfusion.parts.types import Samples


def packed(counts: list[int]) -> Samples:
    """Samples of rays with so many samples each, at random distances in order."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.cat([torch.rand(count, generator=generator).sort().values for count in counts])
    ray_indices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Samples(ray_indices, starts, starts + 0.01, torch.tensor([0, *counts]).cumsum(0))


def fog(positions: torch.Tensor) -> torch.Tensor:
    """Clear on one side, thick on the other."""
    return 400.0 * (positions[:, 0] + positions[:, 2]).clamp(min=0)


COUNTS = [[0], [1], [30, 0, 1, 60, 0], [8, 16, 24, 7, 9]]


@pytest.mark.parametrize('counts', COUNTS)
@pytest.mark.parametrize('threshold', [1e-3, 0.5])
def test_front_to_back_sees_what_all_at_once_sees(counts, threshold):
    samples = packed(counts)
    origins, directions = torch.randn(2, len(counts), 3, generator=torch.Generator().manual_seed(1))
    middle = (samples.starts + samples.ends) / 2
    everything = fog(positions_on_rays(origins, directions, middle, samples))
    asked = []
    seen = density_front_to_back(origins, directions, samples, lambda x: asked.append(len(x)) or fog(x), threshold)
    expected = visible_prefix(everything, samples, threshold)
    assert torch.equal(visible_prefix(seen, samples, threshold), expected)
    counted = torch.bincount(samples.ray_indices[expected], minlength=len(counts))
    assert torch.equal(visible_counts(seen, samples, threshold), counted)
    assert sum(asked) <= len(samples)
    again = front_to_back_reference(origins, directions, samples, fog, -math.log(threshold))
    assert torch.equal(seen, again)


def test_behind_a_wall_nothing_is_asked_for():
    samples = packed([64])
    origins, directions = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]])
    asked = []
    density_front_to_back(
        origins, directions, samples, lambda x: asked.append(len(x)) or torch.full((len(x),), 1e5), 1e-3
    )
    assert asked == [8]  # one slab


@pytest.mark.parametrize('counts', COUNTS)
def test_values_and_positions_are_those_of_the_rays(counts, monkeypatch):
    samples = packed(counts)
    origins, directions = torch.randn(2, len(counts), 3, generator=torch.Generator().manual_seed(1))
    found = values_of_rays(origins, samples), positions_on_rays(origins, directions, samples.ends, samples)
    assert torch.equal(found[0], origins[samples.ray_indices])
    moved = samples.ends[:, None] * directions[samples.ray_indices]
    assert torch.equal(found[1], origins[samples.ray_indices] + moved)


def test_cameras_may_be_learnt():
    samples = packed([3, 2])
    origins = torch.randn(2, 3, requires_grad=True)
    positions_on_rays(origins, torch.randn(2, 3), samples.starts, samples).sum().backward()
    assert torch.equal(origins.grad, torch.tensor([[3.0] * 3, [2.0] * 3]))


@pytest.mark.parametrize('counts', COUNTS)
def test_the_first_samples_are_kept_as_the_reference_keeps_them(counts, monkeypatch):
    samples = packed(counts)
    half = (torch.tensor(counts) + 1) // 2
    found = keep_first(samples, half)
    monkeypatch.setenv('NEMO_DREAMFUSION_OPS', 'reference')
    expected = keep_first(samples, half)
    for name in ('ray_indices', 'starts', 'ends', 'offsets'):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_what_has_no_length_is_not_counted():
    samples = Samples(
        torch.zeros(3, dtype=torch.int64), torch.zeros(3), torch.tensor([0.1, 0.1, 0.0]), torch.tensor([0, 3])
    )
    assert visible_counts(torch.ones(3), samples, 1e-3).tolist() == [2]
