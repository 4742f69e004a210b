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

"""Build buildings."""

from __future__ import annotations

from nemo_dreamfusion.pocket.world.objects.solids import both_sides
from nemo_dreamfusion.pocket.world.sdf import Primitive


def house() -> list[Primitive]:
    wall, roof, glass = (0.92, 0.8, 0.56), (0.68, 0.16, 0.1), (0.3, 0.62, 0.9)
    parts = [
        Primitive('box', (0, -0.34, 0), (0.52, 0.4, 0.46), wall, part='main'),
        Primitive('pyramid', (0, 0.4, 0), (0.66, 0.38, 0), roof, part='roof'),
        Primitive('box', (0, -0.5, 0.46), (0.13, 0.24, 0.04), (0.38, 0.19, 0.07)),
        Primitive('box', (0.3, 0.42, -0.12), (0.1, 0.24, 0.1), (0.5, 0.42, 0.4)),
    ]
    return parts + both_sides(Primitive('box', (0.32, -0.25, 0.46), (0.12, 0.12, 0.04), glass))


def castle() -> list[Primitive]:
    stone, roof = (0.62, 0.6, 0.7), (0.1, 0.24, 0.78)
    parts = [
        Primitive('box', (0, -0.32, 0), (0.44, 0.28, 0.44), stone, part='main'),
        Primitive('box', (0, 0.1, -0.05), (0.22, 0.4, 0.22), stone, part='main'),
        Primitive('pyramid', (0, 0.7, -0.05), (0.28, 0.22, 0), roof),
        Primitive('box', (0, -0.43, 0.44), (0.16, 0.17, 0.05), (0.36, 0.17, 0.05), part='gate'),
        Primitive('cylinder', (0, -0.26, 0.44), (0.16, 0.05, 0), (0.36, 0.17, 0.05), axis='z', part='gate'),
    ]
    for z in (-0.44, 0.44):
        parts += both_sides(Primitive('cylinder', (0.44, -0.12, z), (0.17, 0.46, 0), stone, part='main'))
        parts += both_sides(Primitive('cone', (0.44, 0.48, z), (0.22, 0.2, 0.02), roof))
        parts += both_sides(Primitive('box', (0.13, 0.02, z), (0.08, 0.08, 0.06), stone, part='main'))
        parts.append(Primitive('box', (z, 0.02, 0), (0.06, 0.08, 0.1), stone, part='main'))
    return parts


def stairs() -> list[Primitive]:
    stone, tread, rise, run = (0.84, 0.76, 0.62), (0.64, 0.2, 0.1), 0.23, 0.24
    parts = []
    for i in range(5):
        top, front = -0.56 + rise * (i + 1), 0.58 - run * i
        size = (0.46, (top + 0.56) / 2, (front + 0.62) / 2)
        parts.append(Primitive('box', (0, top - size[1], front - size[2]), size, stone, part='main'))
        center = (0, top - 0.03, front - run / 2 + 0.02)
        parts.append(Primitive('box', center, (0.48, 0.05, run / 2 + 0.02), tread, part='steps'))
    return parts
