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

"""The viewer's answers and what they cost a fit, on a small model."""

import re
import sys

import pytest
from small_model import SMALL


def test_answers_are_counted_and_steps_compared(module, monkeypatch, capsys, tmp_path):
    pytest.importorskip('viser', reason='the extra "viewer" is not installed')
    response = module('viewer_response')
    for name, value in (('BETWEEN', 0.02), ('BLOCK', 10), ('FIRST', 10)):
        monkeypatch.setattr(response, name, value)
    monkeypatch.setattr(sys, 'argv', ['viewer_response.py', *SMALL, 'trainer.max_steps=40', 'viewer.resolution=48'])
    response.main()
    said = capsys.readouterr().out
    assert 'steps: 10 alone, 20 watched' in said
    (answers, median, slowest) = map(
        int, re.search(r'answers: (\d+), median (\d+) ms, slowest (\d+) ms', said).groups()
    )
    assert answers > 1 and 0 < median <= slowest
