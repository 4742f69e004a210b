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

"""How an operator is made, and which module its bodies come from."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import cpu as cpu_bodies
from nemo_dreamfusion.ops.backends import select as native

NAMESPACE = 'nemo_dreamfusion'


def bodies(tensor: Tensor) -> ModuleType:
    """The module that has the compiled bodies for the tensor's device."""
    if tensor.is_cuda or native.body(tensor) == 'triton':
        from nemo_dreamfusion.ops.backends import triton as triton_bodies  # lazily: triton is optional

        return triton_bodies
    return cpu_bodies


def operator(name: str, mutates: Sequence[str] = ()) -> Any:
    """A decorator: the function becomes torch.ops.nemo_dreamfusion.<name>."""
    return torch.library.custom_op(f'{NAMESPACE}::{name}', mutates_args=tuple(mutates))
