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

"""Build vehicles."""

from __future__ import annotations

from nemo_dreamfusion.pocket.world.objects.solids import ball, both_sides, slanted_bar
from nemo_dreamfusion.pocket.world.sdf import Primitive


def rocket() -> list[Primitive]:
    body, red = (0.82, 0.84, 0.88), (0.82, 0.1, 0.08)
    parts = [
        Primitive('cylinder', (0, 0.0, 0), (0.32, 0.45, 0), body, part='main'),
        Primitive('cone', (0, 0.68, 0), (0.32, 0.24, 0.03), red, part='nose'),
        Primitive('cone', (0, -0.52, 0), (0.26, 0.09, 0.18), (0.3, 0.3, 0.33)),
        Primitive('cone', (0, -0.76, 0), (0.21, 0.18, 0.02), (1.0, 0.6, 0.08), axis='-y'),
    ]
    parts += both_sides(Primitive('box', (0.44, -0.4, 0), (0.18, 0.24, 0.06), red))
    parts += both_sides(Primitive('ellipsoid', (0.3, 0.16, 0), (0.06, 0.15, 0.15), (0.15, 0.4, 0.85)))
    for z in (-1, 1):
        parts.append(Primitive('box', (0, -0.4, 0.44 * z), (0.06, 0.24, 0.18), red))
        parts.append(Primitive('ellipsoid', (0, 0.16, 0.3 * z), (0.15, 0.15, 0.06), (0.15, 0.4, 0.85)))
    return parts


def car() -> list[Primitive]:
    paint, glass, black = (0.1, 0.28, 0.82), (0.12, 0.15, 0.2), (0.05, 0.05, 0.06)
    parts = [
        Primitive('box', (0, -0.13, 0), (0.43, 0.2, 0.84), paint, rounding=0.08, part='main'),
        Primitive('box', (0, 0.16, -0.12), (0.36, 0.19, 0.44), glass, rounding=0.06),
        Primitive('box', (0, 0.34, -0.12), (0.37, 0.06, 0.42), paint, rounding=0.04, part='main'),
        Primitive('box', (0, -0.18, 0.83), (0.16, 0.07, 0.03), black),
    ]
    parts += both_sides(Primitive('ellipsoid', (0.28, -0.1, 0.82), (0.11, 0.11, 0.06), (1.0, 0.92, 0.5)))
    parts += both_sides(Primitive('box', (0.28, -0.1, -0.83), (0.1, 0.07, 0.04), (0.85, 0.06, 0.06)))
    for z in (-0.5, 0.5):
        parts += both_sides(Primitive('cylinder', (0.38, -0.32, z), (0.22, 0.11, 0), black, axis='x'))
        parts += both_sides(Primitive('cylinder', (0.4, -0.32, z), (0.1, 0.11, 0), (0.7, 0.7, 0.72), axis='x'))
    return parts


def boat() -> list[Primitive]:
    hull, sail = (0.55, 0.27, 0.1), (0.93, 0.93, 0.9)
    return [
        Primitive('box', (0, -0.5, -0.06), (0.34, 0.2, 0.62), hull, rounding=0.08, part='main'),
        Primitive('cone', (0, -0.46, 0.66), (0.26, 0.16, 0.08), hull, axis='z', part='main'),
        Primitive('box', (0, -0.3, -0.06), (0.26, 0.04, 0.52), (0.8, 0.58, 0.3)),
        Primitive('cylinder', (0, 0.24, 0.1), (0.06, 0.62, 0), (0.4, 0.22, 0.08)),
        Primitive('pyramid', (0, 0.28, -0.18), (0.34, 0.46, 0), sail, part='sail'),
        Primitive('box', (0, 0.8, 0.22), (0.04, 0.08, 0.16), (0.85, 0.1, 0.1)),
    ]


def bicycle() -> list[Primitive]:
    frame, black, metal = (0.88, 0.08, 0.1), (0.06, 0.06, 0.07), (0.66, 0.68, 0.72)
    rear, front, crank = (0, -0.27, -0.53), (0, -0.27, 0.53), (0, -0.27, -0.04)
    saddle, head = (0, 0.22, -0.22), (0, 0.22, 0.34)
    parts = [
        Primitive('capsule', (0, -0.27, -0.28), (0.055, 0.25, 0), frame, axis='z', part='main'),
        Primitive('capsule', (0, 0.22, 0.06), (0.055, 0.28, 0), frame, axis='z', part='main'),
        Primitive('cylinder', (0, 0.32, -0.24), (0.05, 0.12, 0), metal),
        Primitive('ellipsoid', (0, 0.46, -0.25), (0.14, 0.08, 0.22), (0.4, 0.2, 0.07), part='seat'),
        Primitive('capsule', (0, 0.34, 0.32), (0.055, 0.14, 0), metal),
        Primitive('capsule', (0, 0.5, 0.32), (0.055, 0.32, 0), metal, axis='x'),
        Primitive('capsule', crank, (0.06, 0.16, 0), black, axis='x'),
    ]
    for start, end in ((rear, saddle), (saddle, crank), (crank, head), (head, front)):
        parts += slanted_bar(start, end, 0.055, frame, 'main')
    for hub in (rear, front):
        parts.append(Primitive('torus', hub, (0.3, 0.065, 0), black, axis='x'))
        parts.append(Primitive('cylinder', hub, (0.08, 0.09, 0), metal, axis='x'))
    return parts + both_sides(Primitive('capsule', (0.32, 0.5, 0.26), (0.06, 0.08, 0), black, axis='z'))


def bus() -> list[Primitive]:
    paint, glass, black = (0.98, 0.66, 0.03), (0.14, 0.22, 0.32), (0.05, 0.05, 0.06)
    parts = [
        Primitive('box', (0, 0.05, 0), (0.35, 0.36, 0.8), paint, rounding=0.06, part='main'),
        Primitive('box', (0, 0.41, 0), (0.33, 0.07, 0.76), (0.92, 0.92, 0.92), rounding=0.05, part='roof'),
        Primitive('box', (0, 0.16, 0.79), (0.27, 0.15, 0.04), glass),
        Primitive('box', (0, -0.24, 0.79), (0.32, 0.06, 0.05), black),
        Primitive('box', (0, 0.2, -0.79), (0.18, 0.1, 0.04), glass),
    ]
    parts += both_sides(ball((0.23, -0.09, 0.78), 0.08, (1.0, 0.97, 0.75)))
    parts += both_sides(Primitive('box', (0.24, -0.12, -0.79), (0.08, 0.07, 0.04), (0.85, 0.06, 0.06)))
    for z in (-0.54, -0.18, 0.18, 0.54):
        parts += both_sides(Primitive('box', (0.34, 0.18, z), (0.04, 0.13, 0.13), glass))
    for z in (-0.48, 0.48):
        parts += both_sides(Primitive('cylinder', (0.3, -0.33, z), (0.19, 0.1, 0), black, axis='x'))
        parts += both_sides(Primitive('cylinder', (0.32, -0.33, z), (0.08, 0.1, 0), (0.7, 0.7, 0.72), axis='x'))
    return parts


def airplane() -> list[Primitive]:
    body, wing, red = (0.86, 0.89, 0.94), (0.1, 0.36, 0.85), (0.88, 0.1, 0.1)
    parts = [
        Primitive('ellipsoid', (0, -0.1, 0), (0.22, 0.22, 0.92), body, part='main'),
        Primitive('capsule', (0, -0.1, 0.12), (0.22, 0.5, 0), body, axis='z', part='main'),
        Primitive('ellipsoid', (0, 0.03, 0.62), (0.15, 0.12, 0.16), (0.1, 0.14, 0.22)),
        Primitive('box', (0, -0.15, 0.08), (0.88, 0.055, 0.22), wing, rounding=0.05, part='wings'),
        Primitive('box', (0, -0.06, -0.7), (0.38, 0.05, 0.14), wing, rounding=0.04, part='wings'),
        Primitive('box', (0, 0.2, -0.7), (0.055, 0.27, 0.15), red, rounding=0.04),
        ball((0, -0.12, 0.82), 0.12, red),
    ]
    return parts + both_sides(Primitive('cylinder', (0.45, -0.27, 0.16), (0.12, 0.2, 0), red, axis='z', rounding=0.03))
