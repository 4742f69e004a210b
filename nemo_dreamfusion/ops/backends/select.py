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

"""Choose the backend of an operator and find its kernels.

Every operator has a reference implementation in torch, which runs everywhere and which the others are compared with,
and kernels for one or both of: ``native``, C++ for float32 tensors on the CPU (``cpu/`` over ``csrc/``), and ``triton``,
for float32 tensors on a CUDA device (``triton/``).

``NEMO_DREAMFUSION_OPS`` forces a backend: ``auto`` (the default: native on the CPU, Triton on CUDA, else the reference),
``reference``, ``native`` or ``triton``. Tensors that a forced backend cannot take (float64, another device) go to the
reference; ``triton`` takes tensors on the CPU only under Triton's interpreter (``TRITON_INTERPRET=1``), and is refused
without the package. An operator may keep kernels that no GPU has run for those who ask for ``triton`` by name.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import library
from nemo_dreamfusion.parts.checks import check_choice
from nemo_dreamfusion.parts.optional import require

VARIABLE = 'NEMO_DREAMFUSION_OPS'
MODES = ('auto', 'reference', 'native', 'triton')
Function = TypeVar('Function', bound=Callable)


def _constant_when_compiled(function: Function) -> Function:
    """Do what ``torch.compiler.assume_constant_result`` does, which imports the compiler: more than a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # a test compares it with torch's own
    return function


@_constant_when_compiled
def mode() -> str:
    """Return what ``NEMO_DREAMFUSION_OPS`` asks for."""
    return check_choice(VARIABLE, os.environ.get(VARIABLE, '').strip().lower() or 'auto', MODES)


def backend(*tensors: Tensor | None) -> str:
    """Return the backend that runs an operator on these tensors: 'reference', 'native' or 'triton'.

    An export to ONNX writes down the reference, whose operations are torch's own.
    """
    wanted = 'reference' if torch.onnx.is_in_onnx_export() else mode()
    given = [t for t in tensors if t is not None]
    if wanted == 'reference' or any(t.is_floating_point() and t.dtype != torch.float32 for t in given):
        return 'reference'
    device = given[0].device.type
    if wanted == 'triton':
        return 'triton' if _forced_triton_takes(device) else 'reference'
    if device == 'cpu' and _has_library():
        return 'native'
    if device == 'cuda' and wanted == 'auto' and _has_triton():
        return 'triton'
    return 'reference'


def kernels(operator: str, tensor: Tensor) -> ModuleType:
    """Return the module with an operator's compiled kernels for the tensor's device.

    Call it where :func:`backend` named compiled kernels. Modules are found by name, ``cpu/<operator>.py`` and
    ``triton/<operator>.py``: an operator needs no list here, and triton, which is optional, is imported only where it
    runs.
    """
    folder = 'triton' if tensor.is_cuda or backend(tensor) == 'triton' else 'cpu'
    return _import_kernels(folder, operator)


@functools.cache
def _import_kernels(folder: str, operator: str) -> ModuleType:
    return importlib.import_module(f'{__package__}.{folder}.{operator}')


# torch.compile takes the answers of these functions as constants instead of tracing them.


@_constant_when_compiled
def _has_library() -> bool:
    return library() is not None


@_constant_when_compiled
def _has_triton() -> bool:
    return _triton_imports()


@functools.cache
def _triton_imports() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


@_constant_when_compiled
def triton_version() -> tuple[int, int]:
    """Return the release of the installed Triton; (0, 0) without it."""
    if not _triton_imports():
        return 0, 0
    major, minor = importlib.import_module('triton').__version__.split('.')[:2]
    return int(major), int(minor)


@_constant_when_compiled
def _forced_triton_takes(device: str) -> bool:
    """Whether Triton's kernels, asked for by name, run on tensors of this kind of device.

    Raises:
        MissingPackageError: without the package.
    """
    require('triton', 'triton', f'{VARIABLE}=triton asks for its kernels', f'{VARIABLE}=auto')
    return device == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1'
