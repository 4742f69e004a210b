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

"""Build small things of a household."""

from __future__ import annotations

from nemo_dreamfusion.pocket.world.objects.solids import ball, both_sides
from nemo_dreamfusion.pocket.world.sdf import Primitive


def key() -> list[Primitive]:
    gold = (0.95, 0.68, 0.08)
    return [
        Primitive('torus', (-0.06, 0.48, 0), (0.32, 0.12, 0), gold, axis='z', part='main'),
        Primitive('cylinder', (-0.06, 0.02, 0), (0.17, 0.07, 0), gold, rounding=0.03, part='main'),
        Primitive('cylinder', (-0.06, -0.38, 0), (0.11, 0.52, 0), gold, rounding=0.03, part='main'),
        Primitive('box', (0.16, -0.76, 0), (0.22, 0.09, 0.1), gold, rounding=0.02, part='main'),
        Primitive('box', (0.12, -0.46, 0), (0.18, 0.09, 0.1), gold, rounding=0.02, part='main'),
    ]


def clock() -> list[Primitive]:
    case, face, black, brass = (0.85, 0.1, 0.14), (0.96, 0.96, 0.92), (0.05, 0.05, 0.06), (0.92, 0.7, 0.2)
    parts = [
        Primitive('cylinder', (0, -0.06, 0), (0.68, 0.24, 0), case, axis='z', rounding=0.06, part='main'),
        Primitive('cylinder', (0, -0.06, 0.23), (0.56, 0.05, 0), face, axis='z', part='face'),
        Primitive('box', (0, 0.12, 0.28), (0.05, 0.2, 0.04), black),
        Primitive('box', (0.12, -0.06, 0.28), (0.15, 0.055, 0.04), black),
        Primitive('box', (0, 0.71, 0), (0.05, 0.12, 0.05), black),
    ]
    for x, y in ((0, 0.4), (0, -0.52), (0.46, -0.06), (-0.46, -0.06)):
        parts.append(ball((x, y, 0.27), 0.055, black))
    parts += both_sides(ball((0.38, 0.6, 0), 0.22, brass))
    return parts + both_sides(ball((0.4, -0.66, 0), 0.14, black))


def gift() -> list[Primitive]:
    paper, ribbon = (0.85, 0.1, 0.5), (1.0, 0.85, 0.12)
    parts = [
        Primitive('box', (0, -0.2, 0), (0.5, 0.46, 0.5), paper, part='main'),
        Primitive('box', (0, 0.22, 0), (0.56, 0.11, 0.56), paper, rounding=0.02, part='main'),
        Primitive('box', (0, -0.16, 0), (0.1, 0.51, 0.58), ribbon, part='ribbon'),
        Primitive('box', (0, -0.16, 0), (0.58, 0.51, 0.1), ribbon, part='ribbon'),
        ball((0, 0.46, 0), 0.13, ribbon, 'ribbon'),
    ]
    bow = Primitive('torus', (0.25, 0.54, 0), (0.15, 0.08, 0), ribbon, axis='z', part='ribbon')
    return parts + both_sides(bow)
