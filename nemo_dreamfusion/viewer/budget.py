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

"""How much of a processor the viewer may take from a fit, and that it takes no more than one core at once."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

SHARE = 0.05  # of the time, while a fit runs
SAVED = 0.2  # seconds of work that are saved up while nothing is asked for
BORROWED = 0.5  # seconds of work that first pictures may take in advance


class Budget:
    """A bucket of working time that fills by ``share`` of each second.

    Args:
        share: 1: no limit.
        clock: what is spent, in seconds. It is the wall's: a painter that waits for a busy core may hold Python's lock,
            and the fit waits with it.
    """

    def __init__(self, share: float = SHARE, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share = share
        self._clock = clock
        self._credit, self._at = SAVED, time.monotonic()

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Count what is done within."""
        began = self._clock()
        try:
            yield
        finally:
            self._credit = self._fill() - (self._clock() - began)

    def seconds_to_wait(self, *, urgent: bool) -> float:
        """Return how long to wait before more work; urgent work may borrow."""
        if self.share >= 1:
            return 0.0
        return max(0.0, (-BORROWED if urgent else 0.0) - self._fill()) / self.share

    def _fill(self) -> float:
        now = time.monotonic()
        self._credit, self._at = min(SAVED, self._credit + self.share * (now - self._at)), now
        return self._credit


def use_one_core() -> None:
    """Keep OpenMP's parallel loops of the calling thread, and of no other, on one core (where OpenMP is GNU's)."""
    torch.get_num_threads()  # torch sets the number when a thread first asks, and would undo ours later
    try:
        ctypes.CDLL('libgomp.so.1').omp_set_num_threads(1)
    except (OSError, AttributeError):
        pass  # another system: the thread takes what torch gives it
