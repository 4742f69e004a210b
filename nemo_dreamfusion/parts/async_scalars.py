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

"""Scalars that a device computes and the host reads some steps later, so that neither waits for the other."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class AsyncScalars:
    """A queue of scalars on their way to the host.

    :meth:`push` starts a copy to the host; :meth:`pop_due` returns those pushed at least ``delay`` pushes earlier. The
    device is never that far behind, so the host does not wait, and which value is read when does not depend on speed.

    Args:
        delay: pushes between a value's own push and its reading.

    >>> scalars = AsyncScalars(delay=1)
    >>> scalars.push(torch.tensor(3.0))
    >>> scalars.pop_due()
    []
    >>> scalars.push(torch.tensor(4.0))
    >>> scalars.pop_due(), scalars.pop_all()
    ([3.0], [4.0])
    """

    def __init__(self, delay: int = 2) -> None:
        self.delay = delay
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def push(self, value: Tensor) -> None:
        """Start the copy of a tensor of one element."""
        value = value.detach()
        if not value.is_cuda:
            self._pending.append((value.clone(), None))
            return
        on_host = torch.empty((), dtype=value.dtype, device='cpu', pin_memory=True)
        on_host.copy_(value, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(value.device))
        self._pending.append((on_host, copied))

    def pop_due(self) -> list[float]:
        """Return and remove the values pushed ``delay`` or more pushes before the last, oldest first."""
        return self._pop(keep=self.delay)

    def pop_all(self) -> list[float]:
        """Return and remove all values, oldest first; wait for the device."""
        return self._pop(keep=0)

    def peek_all(self) -> list[float]:
        """Return all values, oldest first, and keep them; wait for the device."""
        return [_read(*pair) for pair in self._pending]

    def _pop(self, keep: int) -> list[float]:
        values = []
        while len(self._pending) > keep:
            values.append(_read(*self._pending.popleft()))
        return values

    def __reduce__(self):
        """A copy, also one in another process, starts empty: an event cannot be copied."""
        return AsyncScalars, (self.delay,)


def _read(on_host: Tensor, copied: torch.cuda.Event | None) -> float:
    if copied is not None:
        copied.synchronize()
    return on_host.item()
