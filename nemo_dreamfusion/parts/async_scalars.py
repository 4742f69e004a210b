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

"""Numbers that a device computes and the host hears of later, so that neither waits for the other."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class AsyncScalars:
    """A queue: :meth:`put` starts a copy to the host, :meth:`due` gives what was put ``late`` or more puts before.

    By then the device has long computed it: it is no more than some steps behind. What is heard of, and when, does not
    depend on how fast anything runs.

    Args:
        late: puts between a number and its reading.
    """

    def __init__(self, late: int = 2) -> None:
        self.late = late
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def put(self, number: Tensor) -> None:
        """A tensor of one element."""
        number = number.detach()
        if not number.is_cuda:
            self._pending.append((number.clone(), None))
            return
        copied = torch.empty((), dtype=number.dtype, device='cpu', pin_memory=True)
        copied.copy_(number, non_blocking=True)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(number.device))
        self._pending.append((copied, event))

    def due(self) -> list[float]:
        """The numbers that are due, oldest first; each is given once."""
        return self._read(self.late)

    def all(self) -> list[float]:
        """All that were not given yet: waits for the device."""
        return self._read(0)

    def pending(self) -> list[float]:
        """As :meth:`all`, but they are still to be given."""
        return [_value(*pair) for pair in self._pending]

    def _read(self, keep: int) -> list[float]:
        numbers = []
        while len(self._pending) > keep:
            numbers.append(_value(*self._pending.popleft()))
        return numbers

    def __reduce__(self):
        """A copy, or one of another process, starts empty."""
        return AsyncScalars, (self.late,)


def _value(copied: Tensor, event: torch.cuda.Event | None) -> float:
    if event is not None:
        event.synchronize()
    return copied.item()
