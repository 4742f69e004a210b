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

"""How many samples a step will have, guessed from earlier steps: on a GPU the host need not wait for their number."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace

from nemo_dreamfusion.parts.async_scalars import AsyncScalars
from nemo_dreamfusion.parts.types import Samples

logger = logging.getLogger('nemo_dreamfusion.modules.renderers.room')


class SampleBudget:
    """Room for the samples of the next step: ``HEADROOM`` times the most of the last ``REMEMBERED`` steps.

    The number of a step is heard of two steps later. Until ``KNOWN`` are known of as many rays, there is no guess, and the
    host waits. Where a step has more samples than there was room for, those of the last rays are left out of it (``cut``
    counts such steps, the log says so at level info), and the room grows.
    """

    HEADROOM = 1.3
    REMEMBERED = 64
    KNOWN = 16  # cameras differ: a few say little of the next
    UNIT = 2**13  # sizes are multiples of it: memory of few sizes is used again

    def __init__(self) -> None:
        self._rays = -1
        self._forget()
        self.cut = 0

    def _forget(self) -> None:
        self._seen: deque[int] = deque(maxlen=self.REMEMBERED)
        self._sizes: deque[int] = deque()  # of the steps whose number is not heard of yet
        self._numbers = AsyncScalars()

    def capacity(self, rays: int) -> int | None:
        """How many samples of so many rays there is to be room for; None: wait for their number."""
        if rays != self._rays:
            self._rays = rays
            self._forget()
        for number in self._numbers.pop_due():
            self._seen.append(int(number))
            room = self._sizes.popleft()
            if number > room:
                self.cut += 1
                logger.info('A step had %d samples and room for %d (%d such steps so far).', number, room, self.cut)
        if len(self._seen) < self.KNOWN:
            return None
        return -(-int(max(self._seen) * self.HEADROOM) // self.UNIT) * self.UNIT or self.UNIT

    def fitted(self, samples: Samples) -> Samples:
        """Samples of which ``offsets`` may count more than are there, with offsets of those that are."""
        self._numbers.push(samples.offsets[-1])
        self._sizes.append(len(samples))
        if not samples.padded:
            return samples
        return replace(samples, offsets=samples.offsets.clamp(max=len(samples)))

    def __reduce__(self):
        """A copy starts without a guess."""
        return SampleBudget, ()
