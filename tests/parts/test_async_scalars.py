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

"""Scalars that the host reads some pushes later."""

import copy
import pickle

import pytest
import torch

from nemo_dreamfusion.parts.async_scalars import AsyncScalars


def test_a_value_is_read_once_and_two_pushes_later():
    scalars, read = AsyncScalars(delay=2), []
    for i in range(6):
        scalars.push(torch.tensor(i))
        read.append(scalars.pop_due())
    assert read == [[], [], [0], [1], [2], [3]]
    assert scalars.peek_all() == [4, 5]
    assert scalars.pop_all() == [4, 5] and scalars.pop_all() == []


def test_a_tensor_may_change_after_its_push():
    scalars, value = AsyncScalars(delay=0), torch.tensor(1.5, requires_grad=True)
    scalars.push(value)
    with torch.no_grad():
        value.add_(1)
    assert scalars.pop_due() == [1.5]


def test_a_copy_starts_empty():
    scalars = AsyncScalars(delay=1)
    scalars.push(torch.tensor(1))
    for other in (copy.deepcopy(scalars), pickle.loads(pickle.dumps(scalars))):
        assert other.delay == 1 and other.pop_all() == []


@pytest.mark.gpu
def test_values_of_a_gpu_are_read_without_waiting():
    scalars = AsyncScalars(delay=1)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for i in range(4):
            scalars.push(torch.full((), i, device='cuda'))
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert scalars.pop_due() == [0, 1, 2] and scalars.pop_all() == [3]
