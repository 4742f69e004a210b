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

"""Annotations as the schema of a configuration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from nemo_dreamfusion.parts.type_checks import check_types, fits, hints_of, in_words


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
    with pytest.raises(ValueError, match=r"model.nerf.width = 'wide' is not allowed: it must be a whole number"):
        check_types('model.nerf', {'width': 'wide'}, hints_of(Child))
    with pytest.raises(ValueError, match='model.nerf.depth is not set'):
        check_types('model.nerf', {'depth': '???'}, hints_of(Child))
    assert in_words(int | None) == 'a whole number or null'
