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

"""Build furniture and things of a household."""

from __future__ import annotations

from nemo_dreamfusion.pocket.world.objects.solids import ball, both_sides
from nemo_dreamfusion.pocket.world.sdf import Primitive


def table() -> list[Primitive]:
    wood, dark = (0.66, 0.4, 0.17), (0.42, 0.22, 0.08)
    parts = [Primitive('box', (0, 0.34, 0), (0.76, 0.09, 0.54), wood, rounding=0.03, part='main')]
    for z in (-0.4, 0.4):
        parts += both_sides(Primitive('cylinder', (0.6, -0.14, z), (0.11, 0.42, 0), dark, part='legs'))
    return parts


def chair() -> list[Primitive]:
    wood, cushion = (0.58, 0.33, 0.13), (0.8, 0.14, 0.12)
    parts = [
        Primitive('box', (0, -0.16, 0), (0.46, 0.08, 0.46), wood, rounding=0.03, part='main'),
        Primitive('box', (0, -0.06, 0.05), (0.38, 0.07, 0.37), cushion, rounding=0.05, part='cushion'),
        Primitive('box', (0, 0.34, -0.38), (0.46, 0.5, 0.08), wood, rounding=0.04, part='main'),
        Primitive('box', (0, 0.42, -0.3), (0.34, 0.32, 0.06), cushion, rounding=0.05, part='cushion'),
    ]
    for z in (-0.36, 0.36):
        parts += both_sides(Primitive('box', (0.36, -0.52, z), (0.1, 0.34, 0.1), wood, part='main'))
    return parts


def bench() -> list[Primitive]:
    wood, iron = (0.8, 0.42, 0.12), (0.16, 0.18, 0.22)
    parts = [
        Primitive('box', (0, -0.12, 0.2), (0.78, 0.06, 0.14), wood, rounding=0.03, part='main'),
        Primitive('box', (0, -0.12, -0.14), (0.78, 0.06, 0.16), wood, rounding=0.03, part='main'),
        Primitive('box', (0, 0.17, -0.3), (0.78, 0.1, 0.06), wood, rounding=0.03, part='main'),
        Primitive('box', (0, 0.43, -0.3), (0.75, 0.1, 0.06), wood, rounding=0.03, part='main'),
    ]
    parts += both_sides(Primitive('box', (0.56, -0.04, -0.36), (0.07, 0.54, 0.06), iron, part='legs'))
    parts += both_sides(Primitive('box', (0.56, -0.4, 0.24), (0.07, 0.24, 0.07), iron, part='legs'))
    return parts + both_sides(Primitive('box', (0.56, -0.23, -0.06), (0.07, 0.06, 0.3), iron, part='legs'))


def sofa() -> list[Primitive]:
    cloth, cushion = (0.42, 0.1, 0.58), (0.98, 0.62, 0.7)
    parts = [
        Primitive('box', (0, -0.32, -0.02), (0.7, 0.18, 0.4), cloth, rounding=0.05, part='main'),
        Primitive('box', (0, 0.06, -0.32), (0.68, 0.42, 0.14), cloth, rounding=0.1, part='main'),
    ]
    parts += both_sides(Primitive('box', (0.66, -0.17, 0), (0.14, 0.33, 0.42), cloth, rounding=0.1, part='main'))
    parts += both_sides(
        Primitive('box', (0.26, -0.09, 0.1), (0.25, 0.1, 0.32), cushion, rounding=0.06, part='cushion')
    )
    parts += both_sides(Primitive('box', (0.26, 0.2, -0.2), (0.25, 0.2, 0.1), cushion, rounding=0.08, part='cushion'))
    for z in (-0.28, 0.28):
        parts += both_sides(Primitive('cylinder', (0.56, -0.56, z), (0.08, 0.1, 0), (0.25, 0.13, 0.06)))
    return parts


def lamp() -> list[Primitive]:
    stand, brass = (0.06, 0.38, 0.3), (0.85, 0.6, 0.15)
    return [
        Primitive('cylinder', (0, -0.8, 0), (0.36, 0.07, 0), stand, rounding=0.03, part='main'),
        Primitive('ellipsoid', (0, -0.38, 0), (0.27, 0.38, 0.27), stand, part='main'),
        Primitive('cylinder', (0, 0.1, 0), (0.07, 0.24, 0), brass),
        Primitive('cone', (0, 0.42, 0), (0.62, 0.36, 0.3), (1.0, 0.84, 0.4), part='shade'),
        ball((0, 0.81, 0), 0.08, brass),
    ]
