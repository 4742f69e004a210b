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

"""Pictures from fewer rays than they have pixels: some pixels apart, and all of them where those show an edge or a curve."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from nemo_dreamfusion.ops.nodes import between_nodes, node_places

_TILE = 8  # nodes of a side that are asked one after the other: their rays meet the same voxels

Ask = Callable[[Tensor], Tensor]  # indices of pixels [N], row-major -> their values [N, C]


def sample_pixels(ask: Ask, height: int, width: int, *, stride: int, tolerance: Tensor) -> Tensor:
    """Return all values of a picture [H W, C], row-major, of which ``ask`` gives some and the rest lies between them.

    Nodes, ``stride`` pixels apart, are asked first; where they show an edge or a curve, every pixel is: see
    :func:`~nemo_dreamfusion.ops.nodes.between_nodes`. What is smaller than the stride and between the nodes is not seen.

    Args:
        ask: gives values.
        height: of the picture, pixels.
        width: likewise.
        stride: pixels from one node to the next; 1 asks all.
        tolerance: [C], largest error of each value, about.

    >>> asked = []
    >>> ramp = sample_pixels(lambda i: asked.append(len(i)) or i[:, None] % 9.0, 9, 9, stride=2, tolerance=torch.ones(1))
    >>> ramp[:9, 0].tolist(), sum(asked)
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 25)
    """
    if stride == 1 or min(height, width) <= 2 * stride:
        return ask(torch.arange(height * width))
    pixels, places, shape = _nodes(height, width, stride)
    asked = ask(pixels)
    nodes = torch.empty_like(asked)
    nodes[places] = asked
    values, missing = between_nodes(nodes.view(*shape, -1), height, width, stride=stride, tolerance=tolerance)
    if len(missing):
        values[missing] = ask(missing)
    return values


@lru_cache(maxsize=4)
def _nodes(height: int, width: int, stride: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return the pixels of the nodes in tiles, which node [h w] each is, and how many rows and columns there are."""
    rows, columns = node_places(height, stride), node_places(width, stride)
    row, column = torch.meshgrid(torch.arange(len(rows)), torch.arange(len(columns)), indexing='ij')
    across = -(-len(columns) // _TILE)
    tile = (row // _TILE) * across + column // _TILE
    places = tile.flatten().argsort(stable=True)
    return (rows[:, None] * width + columns).flatten()[places], places, (len(rows), len(columns))
