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

"""Which process is the first: what NeMo says."""

from itertools import product

import pytest
from nemo.utils import get_rank

from nemo_dreamfusion.parts.ranks import GLOBAL, is_global_rank_zero

NAMES = (*GLOBAL, 'NODE_RANK', 'GROUP_RANK', 'LOCAL_RANK')


@pytest.mark.parametrize('values', product((None, '0', '1'), repeat=3))
@pytest.mark.parametrize('names', [NAMES[:3], NAMES[3:], (NAMES[1], NAMES[3], NAMES[5])])
def test_the_first_process_is_nemos(monkeypatch, names, values):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in zip(names, values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert is_global_rank_zero() == get_rank.is_global_rank_zero()
