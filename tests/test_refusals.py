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

"""The helper of the other tests: it passes what names key, value and way out, and nothing less."""

import pytest
from refusals import NO_VALUE, check_refusal, refusal

pytestmark = pytest.mark.unit

MESSAGE = "model.nerf.levels = 12 is not allowed: it must be one of 'four', '/a b'. Set model.nerf=small."


def refuse(message):
    raise ValueError(message)


@pytest.mark.parametrize(
    'asked',
    [
        ('model.nerf.levels', 12, 'model.nerf=small'),
        ('model.nerf.levels', NO_VALUE, 'four', '/a b'),
        ('model.nerf', '12', "'four'"),  # as the key of the setting to change
    ],
)
def test_a_message_that_names_all_passes(asked):
    with refusal(*asked) as caught:
        refuse(MESSAGE)
    assert str(caught.value) == MESSAGE


@pytest.mark.parametrize(
    'asked',
    [
        ('nerf.levels', 12, 'four'),  # the tail of another key
        ('model.nerf.level', 12, 'four'),
        ('model', 12, 'four'),
        ('model.nerf.levels', 1, 'four'),  # a digit of another number
        ('model.nerf.levels', 'twelve', 'four'),
        ('model.nerf.levels', 12, 'five'),
        ('model.nerf.levels', 12, 'four', 'model.nerf=large'),
        ('model.nerf.levels', 12),  # no way out asked for
    ],
)
def test_a_message_that_lacks_something_fails(asked):
    with pytest.raises(AssertionError):
        check_refusal(MESSAGE, *asked)
    with pytest.raises(AssertionError):
        with refusal(*asked):
            refuse(MESSAGE)


def test_no_refusal_and_another_error_fail():
    with pytest.raises(pytest.fail.Exception):
        with refusal('model.nerf.levels', 12, 'four'):
            pass
    with pytest.raises(KeyError):
        with refusal('model.nerf.levels', 12, 'four'):
            raise KeyError(MESSAGE)
    with refusal('model.nerf.levels', 12, 'four', error=KeyError):
        raise KeyError(MESSAGE)
