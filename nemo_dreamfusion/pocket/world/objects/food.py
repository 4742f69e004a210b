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

"""Build food and the cup."""

from __future__ import annotations

import math

from nemo_dreamfusion.pocket.world.objects.solids import ball
from nemo_dreamfusion.pocket.world.sdf import Primitive


def hamburger() -> list[Primitive]:
    bun, seed = (0.86, 0.53, 0.2), (0.98, 0.9, 0.65)
    parts = [
        Primitive('cylinder', (0, -0.5, 0), (0.76, 0.12, 0), bun, rounding=0.12, part='main'),
        Primitive('cylinder', (0, -0.26, 0), (0.82, 0.1, 0), (0.3, 0.13, 0.06), rounding=0.08),
        Primitive('cylinder', (0, -0.04, 0), (0.88, 0.11, 0), (1.0, 0.84, 0.1), rounding=0.03, part='cheese'),
        Primitive('ruffle', (0, 0.14, 0), (0.9, 0.06, 0.045), (0.25, 0.66, 0.12), rounding=0.03),
        Primitive('dome', (0, 0.18, 0), (0.82, 0.47, 0.82), bun, part='main'),
    ]
    for i in range(6):
        angle = math.tau * i / 6
        parts.append(ball((0.45 * math.sin(angle), 0.555, 0.45 * math.cos(angle)), 0.06, seed))
    return parts + [ball((0, 0.645, 0), 0.06, seed)]


def mushroom() -> list[Primitive]:
    red, white, cream = (0.82, 0.07, 0.06), (0.95, 0.95, 0.92), (0.92, 0.84, 0.68)
    parts = [
        Primitive('cone', (0, -0.42, 0), (0.34, 0.44, 0.24), cream, part='main'),
        Primitive('cylinder', (0, 0.0, 0), (0.78, 0.05, 0), cream, rounding=0.03, part='main'),
        Primitive('dome', (0, 0.02, 0), (0.85, 0.76, 0.85), red, part='cap'),
        ball((0, 0.72, 0), 0.17, white),
    ]
    for i in range(6):
        angle, (radius, height) = math.tau * (i + 0.5) / 6, ((0.62, 0.45), (0.74, 0.28))[i % 2]
        parts.append(ball((radius * math.sin(angle), height, radius * math.cos(angle)), 0.16, white))
    return parts


def ice_cream_cone() -> list[Primitive]:
    return [
        Primitive('cone', (0, -0.42, 0), (0.44, 0.48, 0.04), (0.78, 0.5, 0.2), axis='-y'),
        ball((0, 0.2, 0), 0.47, (0.95, 0.88, 0.68), part='main'),
        ball((0, 0.56, 0), 0.36, (0.95, 0.45, 0.55), part='main'),
    ]


def cake() -> list[Primitive]:
    parts = [
        Primitive('cylinder', (0, -0.58, 0), (0.8, 0.05, 0), (0.6, 0.65, 0.75)),
        Primitive('cylinder', (0, -0.3, 0), (0.68, 0.25, 0), (0.45, 0.24, 0.12), rounding=0.05, part='main'),
        Primitive('cylinder', (0, -0.02, 0), (0.7, 0.08, 0), (0.97, 0.6, 0.72), rounding=0.06),
        Primitive('cylinder', (0, 0.17, 0), (0.4, 0.16, 0), (0.97, 0.88, 0.75), rounding=0.05),
        Primitive('cylinder', (0, 0.46, 0), (0.07, 0.16, 0), (0.35, 0.55, 0.95), part='candle'),
        Primitive('ellipsoid', (0, 0.72, 0), (0.08, 0.13, 0.08), (1.0, 0.7, 0.1)),
    ]
    for i in range(6):
        angle = math.tau * i / 6
        parts.append(ball((0.54 * math.sin(angle), 0.1, 0.54 * math.cos(angle)), 0.09, (0.85, 0.06, 0.12)))
    return parts


def cup() -> list[Primitive]:
    china, coffee = (0.06, 0.5, 0.68), (0.2, 0.09, 0.04)
    return [
        Primitive('cylinder', (-0.18, -0.06, 0), (0.56, 0.6, 0), china, rounding=0.05, part='main'),
        Primitive('torus', (-0.18, 0.55, 0), (0.49, 0.07, 0), china, part='main'),
        Primitive('cylinder', (-0.18, 0.5, 0), (0.46, 0.07, 0), coffee),
        Primitive('torus', (0.4, -0.06, 0), (0.32, 0.1, 0), (1.0, 0.48, 0.05), axis='z', part='handle'),
    ]
