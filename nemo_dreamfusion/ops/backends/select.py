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

"""The choice between the bodies of one operation, and the loader of the compiled CPU library.

Every operation of this folder has a readable torch reference, which runs everywhere and is what the others are compared
with; a C++ body for float32 tensors on the CPU (``csrc/``, built by ``setup.py`` into ``_native*.so``, no torch headers,
called by ctypes); and a Triton body for float32 tensors on a CUDA device.

``NEMO_DREAMFUSION_OPS`` forces one: ``auto`` (the default: native on the CPU, Triton on CUDA, else the reference),
``reference``, ``native``, ``triton``. Tensors a forced body cannot take (float64, another device) use the reference;
``triton`` takes tensors on the CPU under Triton's interpreter only (``TRITON_INTERPRET=1``), and is refused without the
package.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_choice
from nemo_dreamfusion.parts.optional import require

VARIABLE = 'NEMO_DREAMFUSION_OPS'
MODES = ('auto', 'reference', 'native', 'triton')
INTERFACE_VERSION = 2  # as in csrc/kernels.h
ADVICE = "For the fast one install a C++ compiler (Debian: apt-get install g++) and run 'pip install -e .' again."


@torch.compiler.assume_constant_result
def mode() -> str:
    """What ``NEMO_DREAMFUSION_OPS`` asks for."""
    return check_choice(VARIABLE, os.environ.get(VARIABLE, '').strip().lower() or 'auto', MODES)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled CPU library, or None (and one warning) where it is not to be had."""
    reason = 'it was not built'
    for path in sorted(Path(__file__).parent.glob('_native*.so')):
        try:
            found = ctypes.CDLL(str(path))
            if found.interface_version() == INTERFACE_VERSION:
                found.instruction_set.restype = ctypes.c_char_p
                return found
            reason = f'{path.name} was built from other sources'
        except (OSError, AttributeError) as error:  # built for another machine, or no library of ours
            reason = f'{path.name} cannot be loaded: {error}'
    text = f'nemo_dreamfusion runs its slow torch reference, not the compiled CPU library ({reason}). {ADVICE}'
    warnings.warn(text, stacklevel=2)
    return None


@torch.compiler.assume_constant_result
def has_library() -> bool:
    return library() is not None


@functools.cache
def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


@torch.compiler.assume_constant_result
def has_triton() -> bool:
    return _has_triton()


@torch.compiler.assume_constant_result
def forced_triton_takes(device: str) -> bool:
    """Whether Triton's kernels, asked for by name, run on tensors of this kind of device.

    Raises:
        MissingPackageError: without the package.
    """
    require('triton', 'triton', f'{VARIABLE}=triton asks for its kernels', f'{VARIABLE}=auto')
    return device == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1'


def body(*tensors: Tensor | None) -> str:
    """'reference', 'native' or 'triton': the body that runs an operation on these tensors.

    An export to ONNX writes down the reference, whose operations are torch's own.
    """
    wanted = 'reference' if torch.onnx.is_in_onnx_export() else mode()
    given = [t for t in tensors if t is not None]
    if wanted == 'reference' or any(t.is_floating_point() and t.dtype != torch.float32 for t in given):
        return 'reference'
    device = given[0].device.type
    if wanted == 'triton':
        return 'triton' if forced_triton_takes(device) else 'reference'
    if device == 'cpu' and has_library():
        return 'native'
    if device == 'cuda' and wanted == 'auto' and has_triton():
        return 'triton'
    return 'reference'
