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

"""To which part of a step the profiler's events are counted."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

pytestmark = pytest.mark.unit

NODE = 'autograd::engine::evaluate_function: '


def event(name, spent, parent=None, *, number=-1, start=0, device=DeviceType.CPU):
    return SimpleNamespace(
        name=name,
        spent=spent,
        cpu_parent=parent,
        sequence_nr=number,
        time_range=SimpleNamespace(start=start),
        device_type=device,
    )


def test_each_event_counts_once_where_it_belongs(module):
    guidance = event('guidance', 1)
    step = event('Optimizer.step#Adam.step', 2)
    of_guidance, of_mlp = (event(f'{NODE}AddmmBackward0', 0, number=number) for number in (5, 6))
    events = [
        guidance,
        step,
        event('aten::addmm', 4, guidance, number=5),
        event('aten::addmm', 8, event('aten::linear', 0), number=6),
        event('aten::mm', 16, of_guidance),
        event('aten::mm', 32, of_mlp),
        event('aten::mul', 64, step),
        event('nemo_dreamfusion::hash_grid_backward_table', 128),
        event('aten::sort', 256),
        event('a kernel of the addmm above', 8, device=DeviceType.CUDA),
    ]
    totals = module('profile_step').by_part(events, 'spent')
    assert {part: spent for part, spent in totals.items() if spent} == {
        'guidance': 1 + 4 + 16,
        'MLP': 8 + 32,
        'optimizer': 2 + 64,
        'encode': 128,
        'other': 256,
    }


def test_a_real_profile_gives_gradients_to_what_they_are_of(module):
    profile_step = module('profile_step')
    weight = torch.randn(64, 64, requires_grad=True)

    def step():
        with torch.profiler.record_function('guidance'):
            loss = torch.mm(weight, weight).sum()
        loss.backward()

    totals = profile_step.shares(step, repeats=3)
    assert totals['MLP'] == 0 and totals['guidance'] > 0


def test_the_picture_has_a_bar_for_each_step(module):
    profile_step = module('profile_step')
    totals = dict.fromkeys(profile_step.PARTS, 1.0)
    picture = profile_step.picture({'first': totals, 'second': totals}, 'a title')
    assert picture.count('7.0 ms') == 2 and picture.count('1.0 ms, 14 %') == 2 * len(totals)
