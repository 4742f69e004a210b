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

"""How much room there is for samples whose number is not known yet."""

import copy

import torch

from nemo_dreamfusion.modules.renderers.room import SampleBudget
from nemo_dreamfusion.parts.types import Samples


def samples(count: int, capacity: int | None = None) -> Samples:
    """Samples of two rays, in arrays of the capacity."""
    size = count if capacity is None else capacity
    offsets = torch.tensor([0, count // 2, count])
    arrays = (torch.zeros(size, dtype=torch.int64), torch.zeros(size), torch.zeros(size))
    return Samples(*arrays, offsets, padded=capacity is not None)


def run(room: SampleBudget, counts: list[int], rays: int = 2) -> list[int | None]:
    """The capacities of steps with so many samples."""
    capacities = []
    for count in counts:
        capacities.append(room.capacity(rays))
        room.fitted(samples(count, capacities[-1]))
    return capacities


def small_room() -> SampleBudget:
    room = SampleBudget()
    room.UNIT, room.KNOWN = 10, 1
    return room


def test_room_is_what_was_needed_lately_and_a_third_more():
    assert run(small_room(), [100, 40, 40, 40, 40]) == [None, None, None, 130, 130]


def test_a_few_steps_are_no_guide():
    capacities = run(SampleBudget(), [100] * 30)
    assert (
        capacities[: SampleBudget.KNOWN + 2] == [None] * (SampleBudget.KNOWN + 2)
        and capacities[SampleBudget.KNOWN + 2]
    )


def test_growth_is_heard_of_two_steps_later_and_counted_as_cut():
    room = small_room()
    assert run(room, [100] * 4 + [200] * 4) == [None, None, None, 130, 130, 130, 130, 260]
    assert room.cut == 1  # of three
    run(room, [200] * 2)
    assert room.cut == 3


def test_the_most_is_forgotten_after_a_while():
    room = small_room()
    room.capacity(2)
    capacities = run(room, [1000] + [100] * (SampleBudget.REMEMBERED + 4))
    assert capacities[10] == 1300 and capacities[-1] == 130


def test_other_rays_are_another_question():
    room = small_room()
    run(room, [100] * 5)
    assert room.capacity(3) is None and room.capacity(3) is None


def test_no_sample_at_all_still_has_room():
    assert run(small_room(), [0] * 5)[-1] == 10


def test_offsets_never_point_behind_the_arrays():
    fitted = small_room().fitted(samples(100, 60))
    assert fitted.offsets.tolist() == [0, 50, 60] and len(fitted) == 60
    assert fitted.exist().all() and samples(30, 60).exist().sum() == 30 and samples(30).exist() is None


def test_a_copy_knows_nothing():
    room = small_room()
    run(room, [100] * 5)
    assert copy.deepcopy(room).capacity(2) is None
