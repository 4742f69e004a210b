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

"""Build the solids that several objects share."""

from __future__ import annotations

import math

from nemo_dreamfusion.pocket.world.sdf import Primitive, Vector


def ball(center: Vector, radius: float, color: Vector, part: str = '') -> Primitive:
    """Build a sphere."""
    return Primitive('ellipsoid', center, (radius, radius, radius), color, part=part)


def both_sides(primitive: Primitive) -> list[Primitive]:
    """Return the primitive and its mirror image in the plane x = 0 (for kinds that are symmetric in x)."""
    x, y, z = primitive.center
    return [primitive, primitive.translate((-2 * x, 0, 0))]


def slanted_bar(start: Vector, end: Vector, radius: float, color: Vector, part: str = '') -> list[Primitive]:
    """Build a bar between two points as a chain of balls (capsules lie along the world axes only)."""
    count = math.ceil(math.dist(start, end) / radius)
    return [ball(_mix(start, end, i / count), radius, color, part) for i in range(count + 1)]


def _mix(start: Vector, end: Vector, share: float) -> Vector:
    x, y, z = (a + share * (b - a) for a, b in zip(start, end))
    return x, y, z
