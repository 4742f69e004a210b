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

"""Load the compiled CPU library and call its functions.

``setup.py`` builds ``csrc/`` into ``backends/_native.so``: a plain C interface without torch headers, called by ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from pathlib import Path

import torch
from torch import Tensor

INTERFACE_VERSION = 8  # equal to the one in csrc/library.cpp
LIBRARY = Path(__file__).parents[1] / '_native.so'
ADVICE = "For the fast one install a C++ compiler (Debian: apt-get install g++) and run 'pip install -e .' again."

Argument = Tensor | int | float | ctypes.Structure | ctypes.Array | None


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the compiled CPU library; return None, and warn once, where there is none to load."""
    reason = 'it was not built'
    if LIBRARY.exists():
        try:
            found = ctypes.CDLL(str(LIBRARY))
            if found.interface_version() == INTERFACE_VERSION:
                found.instruction_set.restype = ctypes.c_char_p
                return found
            reason = f'{LIBRARY.name} was built from other sources'
        except (OSError, AttributeError) as error:  # built for another machine, or not our library
            reason = f'{LIBRARY.name} cannot be loaded: {error}'
    text = f'nemo_dreamfusion runs its slow torch reference, not the compiled CPU library ({reason}). {ADVICE}'
    warnings.warn(text, stacklevel=2)
    return None


def call(name: str, *arguments: Argument) -> None:
    """Run an exported function on as many threads as torch uses.

    Pass tensors as pointers to their (contiguous) data, None as a null pointer, integers as int64, floats as float32.
    """
    getattr(library(), name)(*map(_to_ctypes, arguments), ctypes.c_int(torch.get_num_threads()))


def _to_ctypes(value: Argument) -> object:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    if isinstance(value, ctypes.Array):
        return value
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)


def empty_float32(*shape: int) -> Tensor:
    """Allocate float32 numbers, whatever torch's default type is (Lightning changes it under 'bf16-true')."""
    return torch.empty(shape, dtype=torch.float32)
