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


"""Which samples are kept: both ways of asking for the density, and the compaction behind them."""

import pytest
import torch

from nemo_dreamfusion.modules.renderers.sampling import density_front_to_back, drop_hidden, keep
from nemo_dreamfusion.ops.compositing import visible_prefix
from nemo_dreamfusion.parts.types import Samples


def packed(counts: list[int], seed: int = 0) -> Samples:
    """Samples of rays with so many samples each, at random distances in order."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.cat([torch.rand(count, generator=generator).sort().values for count in counts])
    rays = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Samples(rays, starts, starts + 0.01, torch.tensor([0, *counts]).cumsum(0))


def fog(positions: torch.Tensor) -> torch.Tensor:
    """Clear on one side, thick on the other."""
    return 40.0 * (positions[:, 0] + positions[:, 2]).clamp(min=0)


@pytest.mark.parametrize('counts', [[0], [1], [30, 0, 1, 60, 0], [8, 16, 24, 7, 9]])
@pytest.mark.parametrize('threshold', [1e-3, 0.5])
def test_all_at_once_keeps_what_front_to_back_keeps(counts, threshold):
    samples = packed(counts)
    positions = torch.randn(len(samples), 3, generator=torch.Generator().manual_seed(1))
    asked = []
    seen = density_front_to_back(positions, samples, lambda x: asked.append(len(x)) or fog(x), threshold)
    slab_by_slab = visible_prefix(seen, samples, threshold)
    assert torch.equal(slab_by_slab, visible_prefix(fog(positions), samples, threshold))
    assert sum(asked) <= len(samples)


def test_the_compaction_is_the_mask():
    samples = packed([5, 0, 3, 9])
    mask = torch.rand(len(samples)) < 0.5
    kept = keep(samples, mask)
    assert torch.equal(kept.starts, samples.starts[mask]) and torch.equal(kept.ray_indices, samples.ray_indices[mask])
    counts = torch.bincount(samples.ray_indices[mask], minlength=4)
    assert torch.equal(kept.offsets, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]))


def test_no_threshold_keeps_all_and_asks_nobody():
    samples = packed([3, 4])
    assert drop_hidden(samples, torch.zeros(2, 3), torch.zeros(2, 3), None, 0.0) is samples


@pytest.mark.gpu
def test_on_a_gpu_the_same_samples_are_kept_and_the_field_is_asked_once():
    samples = packed([30, 0, 1, 60, 0])
    there = Samples(*(x.cuda() for x in (samples.ray_indices, samples.starts, samples.ends, samples.offsets)))
    origins, directions = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    here = drop_hidden(samples, origins, directions, fog, 1e-2)
    asked = []
    found = drop_hidden(there, origins.cuda(), directions.cuda(), lambda x: asked.append(len(x)) or fog(x), 1e-2)
    assert asked == [len(samples)] and torch.equal(found.ray_indices.cpu(), here.ray_indices)
    torch.testing.assert_close(found.starts.cpu(), here.starts)
