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

"""What a page may ask of a fit: pause, go on, save, stop. The fit looks here between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable

CHECK_SECONDS = 0.1  # how often a paused fit looks for a signal


class FitControl:
    """Requests from the page's threads to the fit's."""

    def __init__(self) -> None:
        self._go = threading.Event()
        self._go.set()
        self._save = threading.Event()
        self.stop_requested = False

    @property
    def paused(self) -> bool:
        """Whether the fit waits after its current step."""
        return not self._go.is_set()

    def pause(self) -> None:
        """Let the fit wait after its current step."""
        self._go.clear()

    def resume(self) -> None:
        """Let the fit go on."""
        self._go.set()

    def stop(self) -> None:
        """Let the fit save and end after its current step."""
        self.stop_requested = True
        self._go.set()

    def save(self) -> None:
        """Let the fit save after its current step, paused or not."""
        self._save.set()

    def take_save(self) -> bool:
        """Return whether saving was asked for since the last call."""
        asked = self._save.is_set()
        self._save.clear()
        return asked

    def wait(self, until: Callable[[], bool]) -> bool:
        """Wait a moment while the fit is paused; return whether it still is.

        Args:
            until: whether something else, such as a signal, ends the pause.
        """
        return not (self._go.wait(CHECK_SECONDS) or until())
