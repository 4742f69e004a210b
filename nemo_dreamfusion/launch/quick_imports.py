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

"""Import the large packages of a fit without looking for garbage meanwhile."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 'lightning.pytorch'  # whose import brings most of what a fit needs


@contextmanager
def imports_without_collection() -> Iterator[None]:
    """Pause Python's garbage collector in a process that has not imported them yet, and keep what is there out of it later.

    The collector walks over all objects again and again while a million of them are made, none of which is garbage: a
    sixth of the time. Where the packages are loaded already nothing changes: what a program made before stays collectable.
    """
    if LARGE in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
        atexit.register(gc.unfreeze)  # the end of the process finds them again: extension modules count what is left
    finally:
        gc.enable()
