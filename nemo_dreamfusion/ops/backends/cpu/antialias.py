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
"""Silhouettes on the CPU: the kernel of ``csrc/antialias.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call


def crossings(
    positions: Tensor, faces: Tensor, face_ids: Tensor, depth: Tensor, cull_back_faces: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inner pixel, the outer pixel and the edge's ends of each crossing."""
    n, v, _ = positions.shape
    _, height, width = face_ids.shape
    capacity = 8 * n * (height + width)  # a round object needs a quarter of it
    count = torch.empty(1, dtype=torch.int64)
    while True:
        found = [torch.empty(capacity, *shape, dtype=torch.int64) for shape in ((), (), (2,))]
        sizes = (n, v, len(faces), height, width, int(cull_back_faces), capacity)
        call('outline_crossings', positions, faces, face_ids, depth, *sizes, count, *found)
        if (needed := int(count)) <= capacity:
            inner, outer, ends = (x[:needed].clone() for x in found)
            return inner, outer, ends
        capacity = needed
