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
"""What lies between the nodes of a picture, and which of its pixels the nodes do not tell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.parts.checks import refuse


def node_places(length: int, stride: int) -> Tensor:
    """Return the places of nodes along a side; the last pixel is one, so that nothing lies outside.

    >>> node_places(8, 3)
    tensor([0, 3, 6, 7])
    """
    places = torch.arange(0, length, stride)
    return places if places[-1] == length - 1 else torch.cat([places, places.new_tensor([length - 1])])


def between_nodes(nodes: Tensor, height: int, width: int, *, stride: int, tolerance: Tensor) -> tuple[Tensor, Tensor]:
    """Return a picture [H W, C], row-major and bilinear between its nodes, and the pixels [M] to ask instead, in any order.

    How far a node is from the middle of its neighbours is four times what bilinear interpolation is wrong by, where second
    derivatives change little (by Taylor's theorem s² f'' / 2 and s² f'' / 8). Around a node where that passes the tolerance
    every pixel but the nodes is to be asked.

    Args:
        nodes: [h, w, C] float32, at :func:`node_places` of both sides; three along each at least.
        height: of the picture, pixels.
        width: likewise.
        stride: pixels from one node to the next, 2 or more.
        tolerance: [C], largest error of each value, about.

    Raises:
        ValueError: for nodes of another shape.
    """
    wanted = (-(-(height - 1) // stride) + 1, -(-(width - 1) // stride) + 1)
    if nodes.ndim != 3 or nodes.shape[:2] != wanted or min(wanted) < 3 or tolerance.shape != nodes.shape[2:]:
        refuse(
            'nodes',
            (tuple(nodes.shape), tuple(tolerance.shape)),
            f'{list(wanted)} of them, with C values and tolerances',
        )
    if select.backend(nodes, tolerance) == 'native':
        kernels = select.kernels('nodes', nodes)
        return kernels.between_nodes(nodes.contiguous(), height, width, stride, tolerance.contiguous())
    rows, columns = node_places(height, stride), node_places(width, stride)
    above, share_down = _between(rows, height, stride)
    left, share_right = _between(columns, width, stride)
    lines = torch.lerp(nodes[above], nodes[above + 1], share_down[:, None, None])
    values = torch.lerp(lines[:, left], lines[:, left + 1], share_right[:, None]).view(height * width, -1)
    rough = _curvature(nodes / tolerance) > 4
    near = F.max_pool2d(rough[None].float(), 2, stride=1)[0] > 0  # blocks that touch a rough node
    missing = near[above][:, left]
    missing[rows[:, None], columns] = False
    return values, missing.view(-1).nonzero().view(-1)


def _between(nodes: Tensor, length: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return for each pixel along a side the node before it, and the share of the way to the next one."""
    pixel = torch.arange(length)
    before = (pixel // stride).clamp(max=len(nodes) - 2)
    return before, (pixel - nodes[before]) / (nodes[before + 1] - nodes[before])


def _curvature(nodes: Tensor) -> Tensor:
    """Return how far nodes [h, w, C] are from the middle of their neighbours, both directions added: [h, w]."""
    down = ((nodes[:-2] + nodes[2:]) / 2 - nodes[1:-1]).abs().amax(-1)
    right = ((nodes[:, :-2] + nodes[:, 2:]) / 2 - nodes[:, 1:-1]).abs().amax(-1)
    # those of an edge are as curved as their neighbours
    return _repeat_edges(down, (0, 0, 1, 1)) + _repeat_edges(right, (1, 1, 0, 0))


def _repeat_edges(values: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    return F.pad(values[None], pad, mode='replicate')[0]
