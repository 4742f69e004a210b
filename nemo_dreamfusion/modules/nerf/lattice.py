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
"""Values on a regular lattice over the box, and buffers of any size, for what starts from a mesh."""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def interpolate_lattice(values: Tensor, positions: Tensor, bound: float) -> Tensor:
    """Return values of a lattice, linear between its points along each axis; outside of the box those on its side.

    In plain operations, so that gradients of gradients exist.

    Args:
        values: [G, G, G, C] at evenly spaced points of [-bound, bound]^3, both sides included; indexed x, y, z.
        positions: [N, 3].
        bound: half the side of the box.

    Returns:
        [N, C], differentiable with respect to both.

    >>> corners = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 2, 2, 1)  # grows with x
    >>> interpolate_lattice(corners, torch.tensor([[0.5, 0.0, 0.0]]), bound=1.0)
    tensor([[1.5000]])
    """
    size = values.shape[0]
    place = ((positions / bound + 1) * (0.5 * (size - 1))).clamp(0, size - 1)
    first = place.detach().floor().clamp(max=size - 2).long()
    share = place - first
    flat = values.reshape(-1, values.shape[-1])
    total = flat.new_zeros(len(positions), flat.shape[1])
    for corner in product((0, 1), repeat=3):
        offset = torch.tensor(corner, device=positions.device)
        index = first + offset
        row = (index[:, 0] * size + index[:, 1]) * size + index[:, 2]
        weight = torch.where(offset == 1, share, 1 - share).prod(1, keepdim=True)
        total = total + weight * flat.index_select(0, row)
    return total


def lattice_points(size: int, bound: float) -> Tensor:
    """Return the points of a lattice of ``size`` points along each axis: [size^3, 3], x slowest."""
    ticks = torch.linspace(-bound, bound, size)
    return torch.cartesian_prod(ticks, ticks, ticks)


class AnySize(nn.Module):
    """A module some of whose buffers take the size, and the presence, of those in a state that is loaded.

    Attributes:
        ANY_SIZE: their names.
    """

    ANY_SIZE: ClassVar[tuple[str, ...]] = ()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in self.ANY_SIZE:
            held = state_dict.get(prefix + name)
            if held is not None:
                own = self._buffers[name]
                device = held.device if own is None else own.device
                setattr(self, name, torch.empty_like(held, device=device))
        super()._load_from_state_dict(state_dict, prefix, *args)
