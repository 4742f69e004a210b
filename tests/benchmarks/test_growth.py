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

"""Exponents of known curves, and the files that say them."""

from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.unit


@pytest.fixture
def growth(module):
    return module('growth')


def test_the_exponent_of_a_power_is_found(growth):
    work = (1.0, 2.0, 4.0, 8.0)
    square = growth.Curve('a', 'pixels', 'a step', work, tuple(0.1 * w**2 for w in work))
    assert square.exponent == pytest.approx(2) == square.last_exponent
    with_start = growth.Curve('a', 'steps', 'a fit', work, tuple(3 + w for w in work))
    assert 0 < with_start.exponent < with_start.last_exponent < 1


def test_table_and_picture_are_drawn_again_from_the_numbers(growth, tmp_path, capsys):
    curves = [
        growth.Curve('levels', 'levels', 'a step', (2, 4), (0.5, 1.0)),
        growth.Curve('steps', 'steps', 'a fit', (20, 40, 80), (3.0, 6.0, 24.0)),
    ]
    growth.write(curves, tmp_path, 'some processor')
    texts = {path.name: path.read_text(encoding='utf-8') for path in tmp_path.iterdir()}
    assert texts.keys() == {'growth.json', 'growth.md', 'growth.svg'}
    assert '| a step | levels | 2, 4 | 0.5, 1 | 1.00 | 1.00 |' in texts['growth.md']
    root = ElementTree.fromstring(texts['growth.svg'])
    assert len(list(root.iter('{http://www.w3.org/2000/svg}circle'))) == 5
    (tmp_path / 'growth.svg').unlink()
    growth.main([f'out={tmp_path}', 'redraw=true'])
    assert {path.name: path.read_text(encoding='utf-8') for path in tmp_path.iterdir()} == texts
    assert '| a fit | steps |' in capsys.readouterr().out
