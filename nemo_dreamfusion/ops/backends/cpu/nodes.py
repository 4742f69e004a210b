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
"""Pictures between their nodes on the CPU: the kernels of ``csrc/nodes.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32


def between_nodes(nodes: Tensor, height: int, width: int, stride: int, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the picture and the pixels that the nodes do not tell, block by block of neighbours."""
    rows, columns, channels = nodes.shape
    values = empty_float32(height * width, channels)
    missing, count = torch.empty(height * width, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    sizes = (rows, columns, channels, height, width, stride)
    call('between_nodes', nodes, tolerance, *sizes, values, missing, count)
    return values, missing[: int(count)]
