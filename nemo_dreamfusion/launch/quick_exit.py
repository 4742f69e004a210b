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

"""End a process without taking a million objects apart one by one, which takes Python over a second after a fit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def run_and_exit(main: Callable[[], None]) -> NoReturn:
    """Run what a process is for, and end it with its exit code; errors end it as they always do.

    Threads that are no daemons are waited for and what ``atexit`` knows is run, as Python does. Left out is all that comes
    after: objects are not freed before the system takes the memory back, so a file that nobody closed loses what was not
    written yet. Under a profiler or debugger, which write their results then, the process ends as any other.

    Args:
        main: may raise ``SystemExit``.
    """
    code: object = 0
    try:
        main()
    except SystemExit as stop:
        code = 0 if stop.code is None else stop.code
    if not isinstance(code, int):  # a text: Python prints it
        sys.exit(str(code))
    if sys.getprofile() or sys.gettrace():
        sys.exit(code)
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # both are what Python itself calls at its end
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError, KeyboardInterrupt):  # a reader that is gone, a closed stream, an impatient user
        sys.exit(code)
    os._exit(code)
