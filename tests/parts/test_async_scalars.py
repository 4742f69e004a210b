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

"""Numbers that are heard of later."""

import copy
import pickle

import pytest
import torch

from nemo_dreamfusion.parts.async_scalars import AsyncScalars


def test_a_number_is_given_once_two_puts_later():
    numbers, heard = AsyncScalars(late=2), []
    for i in range(6):
        numbers.put(torch.tensor(i))
        heard.append(numbers.due())
    assert heard == [[], [], [0], [1], [2], [3]]
    assert numbers.all() == [4, 5] and numbers.all() == []


def test_what_is_put_may_change_afterwards():
    numbers, number = AsyncScalars(late=0), torch.tensor(1.5, requires_grad=True)
    numbers.put(number)
    with torch.no_grad():
        number.add_(1)
    assert numbers.due() == [1.5]


def test_a_copy_starts_empty():
    numbers = AsyncScalars(late=1)
    numbers.put(torch.tensor(1))
    for other in (copy.deepcopy(numbers), pickle.loads(pickle.dumps(numbers))):
        assert other.late == 1 and other.all() == []


@pytest.mark.gpu
def test_numbers_of_a_gpu():
    numbers = AsyncScalars(late=1)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for i in range(4):
            numbers.put(torch.full((), i, device='cuda'))
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert numbers.due() == [0, 1, 2] and numbers.all() == [3]
