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

"""The timing of whole commands: it runs them, and takes the least."""

import pytest


@pytest.fixture
def timing(module):
    return module('start_and_end')


def test_the_least_of_each_is_taken(timing):
    numbers = [('.', 3.0, 1.5), ('.', 2.0, 1.7), ('../b', 9.0, 4.0)]
    rows = [timing.Measured(tree, 'key', wall, cpu) for tree, wall, cpu in numbers]
    best = timing.least(rows, '.', 'key')
    assert (best.wall_s, best.cpu_s) == (2.0, 1.5)
    assert timing.table(rows, ['.', '../b'], ['key']).splitlines()[-1].endswith('| 1.5 | 2.0 | 4.0 | 9.0 |')


def test_a_command_is_run_to_its_end(timing, monkeypatch):
    one = timing.run_once('.', 'key')
    assert one.wall_s > 0 and one.cpu_s > 0 and one.files_s == {}
    monkeypatch.setitem(timing.CASES, 'key', (['trainer.max_step=2'], 0))
    with pytest.raises(RuntimeError, match='ended with 2') as caught:
        timing.run_once('.', 'key')
    assert 'trainer.max_steps' in str(caught.value)
