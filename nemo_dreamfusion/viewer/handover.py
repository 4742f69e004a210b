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

"""Hand the weights of a fit to the viewer's thread without a lock: two copies change hands.

The fit writes only the spare copy, and only while that is its own; the viewer reads only the front copy. Each passes the
spare on by one assignment to an attribute, which Python does whole or not at all.
"""

from __future__ import annotations

import time

from nemo_dreamfusion.viewer.scene_copy import HasParts, SceneCopy

INTERVAL = 1.0  # seconds between two copies at least


class Handover:
    """The two copies of a scene that is being fitted.

    Attributes:
        copies: how often weights were copied.
    """

    def __init__(self) -> None:
        self.copies = 0
        self._front: SceneCopy | None = None  # the viewer's
        self._spare: SceneCopy | None = None  # the fit's, unless it is offered
        self._offered: SceneCopy | None = None  # a spare with newer weights than the front
        self._last = float('-inf')

    def offer(self, model: HasParts, step: int, *, now: bool = False) -> None:
        """Copy the weights for the viewer, unless it has not taken the last ones yet; the fit's side.

        Args:
            model: that is fitted, between two steps.
            step: how many steps it has made.
            now: do not wait until ``INTERVAL`` has passed.
        """
        if self._offered is not None or not (now or time.monotonic() - self._last >= INTERVAL):
            return
        spare, self._spare = self._spare, None
        if spare is None:
            spare = SceneCopy(model, step)
        else:
            spare.refresh(model, step)
        self.copies += 1
        self._last = time.monotonic()
        self._offered = spare

    def take(self) -> SceneCopy | None:
        """Return the newest weights that were offered, None before the first; the viewer's side."""
        offered = self._offered
        if offered is not None:
            before, self._front = self._front, offered
            if before is not None:
                self._spare = before
            self._offered = None  # last: from here on the fit may offer again
        return self._front

    @property
    def is_stale(self) -> bool:
        """Whether newer weights than the front's are there."""
        return self._offered is not None
