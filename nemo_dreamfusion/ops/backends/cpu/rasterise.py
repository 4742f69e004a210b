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
"""Rasterising on the CPU: the kernels of ``csrc/rasterise.cpp``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.cpu.library import call, empty_float32


def visible(positions: Tensor, faces: Tensor, height: int, width: int, cull_back_faces: bool) -> tuple[Tensor, Tensor]:
    """Return face ids and depth."""
    n, v, _ = positions.shape
    face_ids, depth = torch.empty(n, height, width, dtype=torch.int64), empty_float32(n, height, width)
    call('visible', positions, faces, n, v, len(faces), height, width, int(cull_back_faces), face_ids, depth)
    return face_ids, depth


def barycentrics_forward(positions: Tensor, faces: Tensor, face_ids: Tensor) -> Tensor:
    weights = empty_float32(*face_ids.shape, 3)
    sizes = (*face_ids.shape, positions.shape[1])
    call('barycentrics_forward', positions, faces, face_ids, *sizes, weights)
    return weights


def barycentrics_backward(grad: Tensor, positions: Tensor, faces: Tensor, face_ids: Tensor) -> Tensor:
    result = torch.empty_like(positions)
    sizes = (*face_ids.shape, positions.shape[1])
    call('barycentrics_backward', grad, positions, faces, face_ids, *sizes, result)
    return result


def interpolate_forward(attributes: Tensor, faces: Tensor, face_ids: Tensor, barycentrics: Tensor) -> Tensor:
    values = empty_float32(*face_ids.shape, attributes.shape[2])
    call('interpolate_forward', attributes, faces, face_ids, barycentrics, *_sizes(attributes, face_ids), values)
    return values


def interpolate_backward(
    grad: Tensor, attributes: Tensor, faces: Tensor, face_ids: Tensor, barycentrics: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    results = tuple(torch.empty_like(x) if need else None for x, need in zip((attributes, barycentrics), needs))
    sizes = (*_sizes(attributes, face_ids), attributes.numel())
    call('interpolate_backward', grad, attributes, faces, face_ids, barycentrics, *sizes, *results)
    return results[0], results[1]


def _sizes(attributes: Tensor, face_ids: Tensor) -> tuple[int, int, int, int]:
    """Return images, pixels of an image, channels, and numbers from one image's attributes to the next's."""
    n, v, channels = attributes.shape
    return len(face_ids), math.prod(face_ids.shape[1:]), channels, 0 if n == 1 else v * channels
