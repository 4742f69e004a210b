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

import torch
import torch.nn.functional as F
from torch import Tensor

Ask = Callable[[Tensor], Tensor]  # indices of pixels [N], row-major -> their values [N, C]


def sample_pixels(ask: Ask, height: int, width: int, *, stride: int, tolerance: Tensor) -> Tensor:
    """Return all values of a picture [H W, C], row-major, of which ``ask`` gives some and the rest lies between them.

    Nodes, ``stride`` pixels apart, are asked first. How far each is from the middle of its neighbours is four times what
    bilinear interpolation between nodes is wrong by, where second derivatives change little (by Taylor's theorem s² f'' / 2
    and s² f'' / 8). Around a node where that passes the tolerance every pixel is asked. What is smaller than the stride and
    between the nodes is not seen.

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
    rows, columns = _nodes(height, stride), _nodes(width, stride)
    asked = ask((rows[:, None] * width + columns).flatten())
    nodes = asked.view(len(rows), len(columns), -1)
    above, share_down = _between(rows, height, stride)
    left, share_right = _between(columns, width, stride)
    lines = torch.lerp(nodes[above], nodes[above + 1], share_down[:, None, None])
    values = torch.lerp(lines[:, left], lines[:, left + 1], share_right[:, None]).view(height * width, -1)
    rough = _curvature(nodes / tolerance) > 4
    near = F.max_pool2d(rough[None].float(), 2, stride=1)[0] > 0  # blocks that touch a rough node
    missing = near[above][:, left]
    missing[rows[:, None], columns] = False
    pixels = missing.view(-1).nonzero().view(-1)
    if len(pixels):
        values[pixels] = ask(pixels)
    return values


def _nodes(length: int, stride: int) -> Tensor:
    """Return the places of nodes along a side; the last pixel is one, so that nothing lies outside."""
    places = torch.arange(0, length, stride)
    return places if places[-1] == length - 1 else torch.cat([places, places.new_tensor([length - 1])])


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
