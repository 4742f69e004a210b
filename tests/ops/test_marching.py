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

"""Ray marching: against a plain double loop, and the native backend against the reference, bit for bit."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.ops.marching import candidates_per_ray, march_op, march_rays

pytestmark = pytest.mark.unit

FIELDS = ('ray_indices', 'starts', 'ends', 'offsets')


def random_rays(n):
    origins = torch.randn(n, 3) * 1.5
    directions = torch.nn.functional.normalize(torch.randn(n, 3) - 0.7 * origins, dim=1)
    if n >= 6:
        directions[:3] = torch.eye(3)  # along the axes: two components are zero
        origins[:3] = torch.tensor([[-3, 0.1, 0.2], [0.1, -3, 1.0], [0.1, 0.2, -3]])
        origins[3] = 0.1  # from inside
        origins[4], directions[4] = torch.tensor([5.0, 5, 5]), torch.tensor([1.0, 0, 0])  # misses
    return origins, directions


def double_loop(origins, directions, occupancy, jitter, bound, step_size, max_samples):
    """One candidate of one ray at a time, in float64."""
    size, found = occupancy.shape[0], []
    for r, (o, d) in enumerate(zip(origins.double(), directions.double())):
        d = torch.where(d.abs() < 1e-10, 1e-10, d)
        faces = torch.stack([(-bound - o) / d, (bound - o) / d])
        near, far = max(faces.amin(0).max().item(), 0.0), faces.amax(0).min().item()
        kept = 0
        for k in range(candidates_per_ray(bound, step_size)):
            start = near + (k + jitter[r].item()) * step_size
            middle = start + step_size / 2
            if middle >= far or kept == max_samples:
                break
            x, y, z = ((o + d * middle + bound) * size / (2 * bound)).long().clamp(0, size - 1)
            if occupancy[x, y, z]:
                found.append((r, start, start + step_size))
                kept += 1
    return found


@pytest.mark.parametrize('name', ['reference', 'native'])
@pytest.mark.parametrize('max_samples', [2, 1000])
def test_equals_a_double_loop(name, max_samples, backend):
    backend(name)
    origins, directions = random_rays(12)
    occupancy, jitter = torch.rand(5, 5, 5) < 0.5, torch.rand(12)
    limits = {'bound': 1.2, 'step_size': 0.11, 'max_samples': max_samples}
    samples, _ = march_rays(origins, directions, occupancy, jitter=jitter, **limits)
    expected = double_loop(origins, directions, occupancy, jitter, **limits)
    assert len(expected) >= 10
    assert samples.ray_indices.tolist() == [r for r, _, _ in expected]
    torch.testing.assert_close(samples.starts, torch.tensor([s for _, s, _ in expected]))
    torch.testing.assert_close(samples.ends, torch.tensor([e for _, _, e in expected]))
    counts = torch.bincount(samples.ray_indices, minlength=12)
    assert samples.offsets.tolist() == [0, *counts.cumsum(0).tolist()]


@pytest.mark.parametrize('name', ['reference', 'native'])
def test_a_full_grid_covers_the_path_through_the_box(name, backend):
    backend(name)
    origin, direction = torch.tensor([[0.0, 0, 5]]), torch.tensor([[0.0, 0, -1]])
    samples, _ = march_rays(
        origin, direction, torch.ones(4, 4, 4, dtype=torch.bool), bound=1, step_size=0.1, max_samples=99
    )
    assert len(samples) == round(2 / 0.1)
    torch.testing.assert_close(samples.starts[0], torch.tensor(4.0))
    torch.testing.assert_close((samples.ends - samples.starts).sum(), torch.tensor(2.0))
    torch.testing.assert_close(samples.ends[:-1], samples.starts[1:], atol=0, rtol=0)  # neighbours share their edge


@pytest.mark.parametrize('size', [1, 7, 32, 64])
@pytest.mark.parametrize('filled', [0.0, 0.002, 0.3, 1.0])
def test_native_keeps_the_same_samples(size, filled, backend):
    origins, directions = random_rays(301)
    occupancy, jitter = torch.rand(size, size, size) < filled, torch.rand(301)
    results = []
    for name in ('native', 'reference'):
        backend(name)
        results.append(
            march_rays(origins, directions, occupancy, bound=1.5, step_size=0.017, max_samples=150, jitter=jitter)[0]
        )
    assert all(torch.equal(getattr(results[0], f), getattr(results[1], f)) for f in FIELDS)


@pytest.mark.parametrize('name', ['reference', 'native'])
def test_no_ray_and_no_sample(name, backend):
    backend(name)
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    for rays in (random_rays(0), (torch.full((2, 3), 9.0), torch.tensor([[0.0, 1, 0]] * 2))):
        samples, total = march_rays(*rays, full, bound=1, step_size=0.1, max_samples=9)
        assert len(samples) == total == 0 and samples.offsets.tolist() == [0] * (len(rays[0]) + 1)


@pytest.mark.parametrize('name', ['reference', 'native'])
@pytest.mark.parametrize('spare', [0, 7, 1000, -1, -40, -(10**6)])
def test_with_a_capacity_each_ray_has_its_samples_and_then_some_of_length_zero(name, spare, backend):
    backend(name)
    origins, directions = random_rays(30)
    occupancy, limits = torch.rand(5, 5, 5) < 0.4, {'bound': 1.2, 'step_size': 0.11, 'max_samples': 1000}
    exact, _ = march_rays(origins, directions, occupancy, **limits)
    capacity = max(0, len(exact) + spare)
    samples, total = march_rays(origins, directions, occupancy, **limits, capacity=capacity)
    assert total == len(exact) >= 100 and len(samples) == samples.offsets[-1] == capacity
    assert torch.equal(samples.ray_indices, torch.arange(30).repeat_interleave(samples.offsets.diff()))
    places_left = capacity
    for r in range(30):
        found, expected = samples.offsets[r : r + 2].tolist(), exact.offsets[r : r + 2].tolist()
        count = min(expected[1] - expected[0], places_left)
        places_left -= count
        for name in ('starts', 'ends'):
            there = getattr(samples, name)[slice(*found)]
            assert torch.equal(there[:count], getattr(exact, name)[slice(*expected)][:count])
            last = (
                there[count - 1] if name == 'ends' and count else samples.ends[found[0] + count - 1] if count else 0.0
            )
            assert (there[count:] == last).all()
        if spare >= 0:  # evenly spread
            assert found[1] - found[0] - count in (spare // 30, spare // 30 + 1)


@pytest.mark.parametrize('name', ['reference', 'native'])
def test_a_capacity_where_there_is_no_sample_and_no_ray(name, backend):
    backend(name)
    empty = torch.zeros(4, 4, 4, dtype=torch.bool)
    samples, total = march_rays(*random_rays(3), empty, bound=1, step_size=0.1, max_samples=9, capacity=7)
    assert total == 0 and samples.ray_indices.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert not samples.starts.any() and not samples.ends.any()
    samples, total = march_rays(*random_rays(0), empty, bound=1, step_size=0.1, max_samples=9, capacity=7)
    assert len(samples) == total == 0


def test_same_bits_for_one_and_two_threads(backend):
    backend('native')
    rays, occupancy = random_rays(500), torch.rand(16, 16, 16) < 0.2
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(march_rays(*rays, occupancy, bound=1, step_size=0.02, max_samples=100)[0])
    torch.set_num_threads(before)
    assert all(torch.equal(getattr(results[0], f), getattr(results[1], f)) for f in FIELDS)


def test_operator_passes_opcheck(backend, assert_opcheck):
    backend('native')
    rays, occupancy = random_rays(9), torch.rand(4, 4, 4) < 0.5
    for capacity in (-1, 20, 200):
        assert_opcheck(march_op, (*rays, torch.rand(9), occupancy, 1.0, 0.1, 50, 36, capacity))


def test_torch_compile_traces_through(backend):
    """The number of samples is known only when the operator has run."""
    backend('native')
    rays, occupancy = random_rays(20), torch.rand(4, 4, 4) < 0.5

    def middles(origins, directions):
        samples, _ = march_rays(origins, directions, occupancy, bound=1.0, step_size=0.1, max_samples=50)
        return (samples.starts + samples.ends) / 2, samples.ray_indices * 2, samples.offsets + 1

    compiled = torch.compile(middles, backend='aot_eager', fullgraph=True)
    assert all(torch.equal(a, b) for a, b in zip(compiled(*rays), middles(*rays)))


@pytest.mark.parametrize(
    ('change', 'name'),
    [({'step_size': 0}, 'step_size'), ({'max_samples': 0}, 'max_samples'), ({'bound': -1}, 'bound')],
)
def test_refusals_name_the_setting(change, name):
    given = {'bound': 1.0, 'step_size': 0.1, 'max_samples': 9}
    with refusal(name, change[name], f'{name} >'):
        march_rays(*random_rays(2), torch.ones(4, 4, 4, dtype=torch.bool), **(given | change))


def test_occupancy_must_be_a_cube_of_bool():
    with refusal('occupancy', (4, 4, 4), 'torch.bool'):
        march_rays(*random_rays(2), torch.ones(4, 4, 4), bound=1, step_size=0.1, max_samples=9)
