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

"""The check before a time is taken, and what becomes of peers that cannot be compared or do not run."""

import math
import sys

import pytest
import torch

pytestmark = pytest.mark.unit


def case_of(measure, *others, **options):
    ours = measure.Way('ours', lambda: {'sum': torch.ones(3)})
    return measure.Case('a case', 'a setting', ours, others, **options)


def test_a_row_has_times_and_differences(module):
    measure = module('measure')
    other = measure.Way('other', lambda: {'sum': torch.ones(3) * (1 + 1e-5)})
    (row,) = measure.measure(case_of(measure, other), repeats=2)
    assert row.other == 'other' and row.ratio == row.other_s / row.ours_s and row.repeats == 2
    assert row.differences == {'sum': pytest.approx(1e-5, rel=0.1)}


@pytest.mark.parametrize(
    'wrong', [torch.ones(3) * 1.001, torch.ones(4), torch.tensor([1.0, math.nan, 1.0]), torch.tensor([1.0, 1.0, 2.0])]
)
def test_what_differs_is_not_timed(wrong, module):
    measure = module('measure')
    case = case_of(measure, measure.Way('other', lambda: {'sum': wrong}))
    with pytest.raises(SystemExit, match='a case: sum of other differs from ours'):
        measure.measure(case, repeats=1)


def test_missing_tensors_are_not_timed(module):
    measure = module('measure')
    with pytest.raises(SystemExit, match=r"other gives \[\], and not \['sum'\]"):
        measure.measure(case_of(measure, measure.Way('other', dict)), repeats=1)


def test_exceptions_are_by_tensor_and_by_norm(module):
    measure = module('measure')
    one_off = torch.ones(10_000)
    one_off[7] = 1.005
    other = measure.Way('other', lambda: {'sum': one_off})
    for options in ({'tolerances': {'sum': 1e-2}}, {'by_norm': ('sum',)}):
        ours = measure.Way('ours', lambda: {'sum': torch.ones(10_000)})
        assert measure.measure(measure.Case('a case', '', ours, (other,), **options), repeats=1)


def test_a_peer_with_numbers_of_its_own_is_timed_only_and_one_that_does_not_run_is_left_out(module):
    measure = module('measure')
    own = measure.Way('its own table', dict, compared=False)
    absent = measure.Skipped('absent', 'not installed')
    (row,) = measure.measure(case_of(measure, own, absent), repeats=1)
    assert row.other == 'its own table' and row.differences == {}


def test_a_peer_s_layout_is_unpacked_before_the_check(module):
    measure = module('measure')
    rows = measure.Way('rows', lambda: {'sum': torch.ones(3, 1)}, unpack=lambda found: {'sum': found['sum'][:, 0]})
    assert measure.measure(case_of(measure, rows), repeats=1)


def test_absent_and_cuda_only_peers_say_why(module, monkeypatch):
    peers, measure = module('peers'), module('measure')
    monkeypatch.setitem(sys.modules, 'raymarching', None)
    rays = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(4, 4, 4, dtype=torch.bool)
    absent = peers.torch_ngp_march(*rays, 100)
    assert isinstance(absent, measure.Skipped) and 'import raymarching' in absent.reason
    pytest.importorskip('nerfacc')
    cuda_only = peers.nerfacc_march(*rays, 0.1)
    assert isinstance(cuda_only, measure.Skipped) and 'CUDA' in cuda_only.reason
