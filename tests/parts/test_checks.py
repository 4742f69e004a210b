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

"""Checks of values, and of a configuration against annotations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import NO_VALUE, check_refusal, refusal

from nemo_dreamfusion.parts import checks
from nemo_dreamfusion.parts.checks import check_types, fits, hints_of, in_words

pytestmark = pytest.mark.unit


def test_message_says_what_was_given_what_is_allowed_and_what_to_set():
    text = checks.message('trainer.max_steps', 0, 'at least 1', 'Set trainer.max_steps=600.')
    check_refusal(text, 'trainer.max_steps', 0, 'at least 1', 'Set trainer.max_steps=600.')
    with refusal('a', 'b', 'c'):
        checks.refuse('a', 'b', 'c')


def test_choice():
    assert checks.check_choice('mode', 'fit', ('fit', 'test')) == 'fit'
    with refusal('mode', 'tset', 'fit', 'test', 'mode=test'):
        checks.check_choice('mode', 'tset', ('fit', 'test'))
    with refusal('mode', None, 'fit', 'test'):
        checks.check_choice('mode', None, ('fit', 'test'))
    with refusal('mode', 'tset', 'fit', 'test', 'Try another.') as caught:
        checks.check_choice('mode', 'tset', ('fit', 'test'), 'Try another.')
    assert 'mode=' not in str(caught.value)


def test_choice_does_not_take_true_for_one():
    assert checks.check_choice('levels', 1, (1, 2)) == 1
    with refusal('levels', True, 1, 2):
        checks.check_choice('levels', True, (1, 2))


@pytest.mark.parametrize(
    ('value', 'limits'),
    [
        (0, {'low': 0, 'high': 1}),
        (1.0, {'low': 0, 'high': 1}),
        (-5, {'high': 0}),
        (7, {'integer': True}),
        (1e-9, {'low': 0, 'low_open': True}),
    ],
)
def test_range_accepts(value, limits):
    assert checks.check_range('x', value, **limits) == value


@pytest.mark.parametrize(
    ('value', 'limits', 'words'),
    [
        (1.5, {'low': 0, 'high': 1}, ['number', 'at least 0', 'at most 1']),
        (0, {'low': 0, 'low_open': True}, ['number', 'greater than 0']),
        (1, {'high': 1, 'high_open': True}, ['number', 'less than 1']),
        (2.0, {'low': 1, 'integer': True}, ['whole number', 'at least 1']),
        (True, {'low': 0}, ['number', 'at least 0']),
        ('3', {}, ['number']),
        (None, {}, ['number']),
        (math.nan, {}, ['number']),
        (math.inf, {'low': 0}, ['number', 'at least 0']),
    ],
)
def test_range_refuses(value, limits, words):
    with refusal('x', value, *words):
        checks.check_range('x', value, **limits)


def test_positive():
    assert checks.check_positive('lr', 0.1) == 0.1
    assert checks.check_positive('steps', 3, integer=True) == 3
    with refusal('lr', 0, 'greater than 0'):
        checks.check_positive('lr', 0)
    with refusal('steps', 0, 'at least 1'):
        checks.check_positive('steps', 0, integer=True)


def test_interval():
    assert checks.check_interval('t', [0.02, 0.98], 0, 1) == (0.02, 0.98)
    assert checks.check_interval('t', [0.5, 0.5], 0, 1) == (0.5, 0.5)
    for wrong in ([0.9, 0.1], [0.1], 0.1, [0.1, 1.1], [0.1, 'b'], [math.nan, 1], None):
        with refusal('t', wrong, 'first <= last', 'at least 0', 'at most 1'):
            checks.check_interval('t', wrong, 0, 1)


def test_keys():
    checks.check_keys('model.nerf', ['levels'], ['levels', 'width'])
    with refusal('model.nerf.levles', NO_VALUE, 'levels', 'width', 'mean model.nerf.levels'):
        checks.check_keys('model.nerf', ['levles'], ['width', 'levels'])
    with refusal('model.foo', NO_VALUE, 'model has width') as caught:
        checks.check_keys('model', ['foo'], ['width'])
    assert 'mean' not in str(caught.value)  # nothing resembles it
    with refusal('wdth', NO_VALUE, 'mean width'):
        checks.check_keys('', ['wdth'], ['width'])


def test_the_first_line_of_an_error():
    assert checks.first_line(RuntimeError('\x1b[1mfirst.\x1b[0m\nsecond')) == 'first'
    assert checks.first_line(RuntimeError(' \n')) == 'RuntimeError'


def test_nearest():
    assert checks.nearest('hambuger', ['a house', 'hamburger', 'humbug'])[0] == 'hamburger'
    assert checks.nearest('DUCK', ['duck', 'truck']) == ['duck', 'truck']
    assert checks.nearest('qqq', ['duck']) == []
    assert checks.nearest('duk', ['ducks', 'duck'], count=1) == ['duck']


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 10), st.floats(-10, 10))
def test_range_returns_or_refuses_and_agrees_with_the_definition(value, low, high):
    inside = math.isfinite(value) and low <= value <= high
    if inside:
        assert checks.check_range('x', value, low, high) == value
    else:
        with refusal('x', value, 'number'):
            checks.check_range('x', value, low, high)


@pytest.mark.parametrize(
    ('hint', 'good', 'bad'),
    [
        (int, [0, -3, 10**30], [True, 1.0, '1', None, []]),
        (float, [1, 0.5, -2.0], [True, math.nan, math.inf, '1', None]),
        (bool, [True, False], [0, 1, 'true', None]),
        (str, ['', 'a'], [1, None, ['a']]),
        (int | None, [None, 3], [0.5, 'x']),
        (Sequence[float], [[], [1, 2.5], (1,)], ['12', [1, 'a'], 3, [math.nan]]),
        (float | Sequence[float], [1.0, [1, 2]], ['a', [[1]]]),
        (Mapping, [{}, {'a': 1}], [[], 'a', None]),
        (Literal['a', 1], ['a', 1], ['b', True, 1.0]),
        (Any, [None, 'x', [1]], []),
    ],
)
def test_what_fits(hint, good, bad):
    assert all(fits(value, hint) for value in good)
    assert not any(fits(value, hint) for value in bad)


class Base:
    def __init__(self, *, width: int, name: str = 'x') -> None: ...


class Child(Base):
    def __init__(self, *, depth: 'int | None' = None, **options: Any) -> None: ...


def test_a_class_shows_what_it_hands_on_too():
    assert {'width': int, 'name': str, 'depth': int | None}.items() <= hints_of(Child).items()


def test_the_refusal_names_the_key_and_what_fits():
    with refusal('model.nerf.width', 'wide', 'whole number'):
        check_types('model.nerf', {'width': 'wide'}, hints_of(Child))
    with refusal('model.nerf.depth', NO_VALUE, 'model.nerf.depth=<value>'):
        check_types('model.nerf', {'depth': '???'}, hints_of(Child))
    assert in_words(int | None) == 'a whole number or null'
