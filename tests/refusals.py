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

"""What the tests ask of a refusal: that it names the key, the value and the way out, in whatever words.

with refusal('model.guidance.score', 'xyz', 'sds'):
    build(score='xyz')

check_refusal(process.stderr, 'trainer.max_steps', 0, 'at least 1')
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NO_VALUE = object()  # in place of a value: the key is missing, or the fault is no value (a damaged file)


@contextmanager
def refusal(
    key: str, value: object = NO_VALUE, *way_out: object, error: type[Exception] = ValueError
) -> Iterator[pytest.ExceptionInfo]:
    """Check that the block raises ``error`` and that its message passes :func:`check_refusal`.

    Args:
        key: the setting (or the file, the argument) that is refused, as the message must name it.
        value: what was given; ``NO_VALUE`` when there is none.
        way_out: at least one: the setting to change, the allowed values or bounds, the command to run.
        error: the class of the exception, where it is no ValueError.

    Yields:
        What ``pytest.raises`` does, for further checks after the block.
    """
    with pytest.raises(error) as caught:
        yield caught
    check_refusal(str(caught.value), key, value, *way_out)


def check_refusal(message: str, key: str, value: object, *way_out: object) -> None:
    """Check that ``message`` names the key, the value (as written or as its ``repr``) and each way out."""
    assert way_out, 'a refusal has a way out: give the setting, the bound or the command that the message must name'
    assert _names(message, key), f'the key {key} is not in: {message}'
    if value is not NO_VALUE:
        assert _names(message, value), f'the value {value!r} is not in: {message}'
    for part in way_out:
        assert _names(message, part), f'the way out {part!r} is not in: {message}'


def _names(message: str, part: object) -> bool:
    """Whether ``part`` stands in ``message`` by itself: 'model.nerf' not as 'model.nerf.levels', 1 not as 10 or 1.5."""
    return any(re.search(rf'(?<![\w.]){re.escape(text)}(?!\w|\.\w)', message) for text in {str(part), repr(part)})
