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

"""How far a field has moved from what it was: for the parts of an object that an edit must leave alone."""

from __future__ import annotations

from torch import Tensor

from nemo_dreamfusion.parts.types import FieldOutput


def field_difference(
    field: FieldOutput, before: FieldOutput, length: float, *, shape: Tensor, color: Tensor
) -> Tensor:
    """Return the mean over N points of (alpha - alpha0)^2 where ``shape``, and of alpha0 |c - c0|^2 / 3 where ``color``.

    alpha = 1 - exp(-density length) is the opacity of a short way through the field, c its albedo; what cannot be seen has
    no colour to keep.

    Args:
        field: as it is, at N points.
        before: as it was, at the same points, without a gradient.
        length: of the way, world units.
        shape: [N] bool, where the density is to stay.
        color: [N] bool, where the albedo is to stay.

    Returns:
        A scalar.

    >>> import torch
    >>> now, then = FieldOutput(torch.zeros(2), torch.ones(2, 3)), FieldOutput(torch.full((2,), 1e9), torch.zeros(2, 3))
    >>> one = torch.tensor([True, False])
    >>> field_difference(now, then, 0.1, shape=one, color=~one)  # a point that has gone, and one that is white, not black
    tensor(1.)
    """
    opacity, opacity_before = (1 - (-length * out.density).exp() for out in (field, before))
    total = (opacity - opacity_before).square() * shape
    if field.albedo is not None and before.albedo is not None:
        total = total + opacity_before * (field.albedo - before.albedo).square().mean(-1) * color
    return total.mean()
