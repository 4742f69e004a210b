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

"""Views: the directions from which an object is described, and how a camera between them mixes their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_dreamfusion.parts.build import read_options
from nemo_dreamfusion.parts.checks import check_range, refuse

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class View:
    """A direction, and what the prompt says there.

    Attributes:
        name: unique in a table of views.
        azimuth_deg: of the camera; 0 looks at the front, positive toward +x.
        elevation_deg: of the camera, positive up.
        text: added to the prompt.
        prompt: the whole text instead.
    """

    name: str
    azimuth_deg: float
    elevation_deg: float
    text: str = ''
    prompt: str | None = None


def read_views(key: str, rows: Sequence[Mapping[str, Any]]) -> tuple[View, ...]:
    """Read a table of views, each row a mapping of the fields of :class:`View`.

    Args:
        key: where the table stands in the configuration, for messages.
        rows: the views.

    Raises:
        ValueError: for a row with an unknown, missing or unfit field, or a name or a direction that stands twice.
    """
    for i, row in enumerate(rows):
        missing = [name for name in ('name', 'azimuth_deg', 'elevation_deg') if name not in row]
        if missing:
            refuse(
                f'{key}[{i}].{missing[0]}', None, 'a value: each view has a name, an azimuth_deg and an elevation_deg'
            )
    views = tuple(read_options(f'{key}[{i}]', View, row) for i, row in enumerate(rows))
    for i, view in enumerate(views):
        check_range(f'{key}[{i}].azimuth_deg', view.azimuth_deg, -360, 360)
        check_range(f'{key}[{i}].elevation_deg', view.elevation_deg, -90, 90)
    names = [view.name for view in views]
    directions = [(view.azimuth_deg % 360, view.elevation_deg) for view in views]
    for what, values in (('name', names), ('azimuth_deg and elevation_deg', directions)):
        twice = [i for i, value in enumerate(values) if value in values[:i]]
        if twice:
            refuse(f'{key}[{twice[0]}]', names[twice[0]], f'another {what} than the views before it')
    return views


def table_weights(views: Sequence[View], azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
    """Return the share of each of V views for each camera: [B], [B] -> [B, V], rows sum to 1.

    Views of one elevation form a circle. A camera mixes its two neighbours on the circle by azimuth, and the circles below
    and above it by elevation, all linearly; below the lowest and above the highest circle it mixes that one alone.

    >>> import torch
    >>> table = [View('front', 0, 0), View('back', 180, 0), View('top', 0, 90)]
    >>> table_weights(table, torch.tensor([0.0, 45.0, 200.0]), torch.tensor([-5.0, 45.0, 90.0]))
    tensor([[1.0000, 0.0000, 0.0000],
            [0.3750, 0.1250, 0.5000],
            [0.0000, 0.0000, 1.0000]])
    """
    azimuth_deg, elevation_deg = azimuth_deg.float(), elevation_deg.float()
    circles = sorted({view.elevation_deg for view in views})
    heights = azimuth_deg.new_tensor(circles)
    shares = _between(heights, elevation_deg.clamp(heights[0], heights[-1]), None)  # [B, circles]
    weights = azimuth_deg.new_zeros(len(azimuth_deg), len(views))
    for circle, share in zip(circles, shares.unbind(1), strict=True):
        index = [i for i, view in enumerate(views) if view.elevation_deg == circle]
        index.sort(key=lambda i: views[i].azimuth_deg % 360)
        around = azimuth_deg.new_tensor([views[i].azimuth_deg % 360 for i in index])
        weights[:, index] = share[:, None] * _between(around, azimuth_deg % 360, 360.0)
    return weights


def _between(knots: Tensor, values: Tensor, period: float | None) -> Tensor:
    """Return the linear shares of ascending knots [K] for values [B]: [B, K]; on a circle where there is a period."""
    import torch  # only here: a command line that is refused imports none

    count = len(knots)
    first = torch.searchsorted(knots, values, right=True) - 1
    if period is None:
        first = first.clamp(0, max(count - 2, 0))
    second = (first + 1) % count
    first = first % count
    span, gone = knots[second] - knots[first], values - knots[first]
    if period is not None:
        span, gone = span % period, gone % period
    part = gone / torch.where(span > 0, span, torch.inf)
    shares = torch.zeros(len(values), count, device=values.device)
    return shares.scatter_add(1, first[:, None], 1 - part[:, None]).scatter_add(1, second[:, None], part[:, None])
