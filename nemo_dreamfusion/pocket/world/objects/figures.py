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

"""Build figures and plants."""

from __future__ import annotations

from nemo_dreamfusion.pocket.world.objects.solids import ball, both_sides, slanted_bar
from nemo_dreamfusion.pocket.world.sdf import Primitive


def snowman() -> list[Primitive]:
    snow, black = (0.84, 0.88, 0.95), (0.06, 0.06, 0.07)
    parts = [
        ball((0, -0.5, 0), 0.43, snow, part='main'),
        ball((0, 0.1, 0), 0.33, snow, part='main'),
        ball((0, 0.5, 0), 0.26, snow, part='main'),
        Primitive('torus', (0, 0.31, 0), (0.22, 0.075, 0), (0.82, 0.1, 0.1)),
        Primitive('cone', (0, 0.48, 0.38), (0.09, 0.16, 0.0), (1.0, 0.45, 0.05), axis='z'),
        Primitive('cylinder', (0, 0.69, 0), (0.32, 0.04, 0), black, part='hat'),
        Primitive('cylinder', (0, 0.82, 0), (0.2, 0.12, 0), black, part='hat'),
        ball((0, 0.1, 0.32), 0.065, black),
        ball((0, -0.22, 0.3), 0.065, black),
        ball((0, -0.44, 0.42), 0.065, black),
    ]
    parts += both_sides(ball((0.11, 0.58, 0.21), 0.06, black))
    return parts + both_sides(Primitive('capsule', (0.48, 0.16, 0), (0.055, 0.2, 0), (0.4, 0.22, 0.08), axis='x'))


def tree() -> list[Primitive]:
    return [
        Primitive('cylinder', (0, -0.66, 0), (0.16, 0.26, 0), (0.42, 0.22, 0.08), part='trunk'),
        Primitive('cone', (0, -0.06, 0), (0.66, 0.42, 0.0), (0.08, 0.42, 0.12), part='main'),
        Primitive('cone', (0, 0.48, 0), (0.5, 0.42, 0.0), (0.14, 0.55, 0.16), part='main'),
    ]


def duck() -> list[Primitive]:
    yellow, wing, orange = (0.98, 0.8, 0.1), (0.86, 0.62, 0.05), (1.0, 0.42, 0.04)
    parts = [
        Primitive('ellipsoid', (0, -0.34, -0.08), (0.47, 0.4, 0.64), yellow, part='main'),
        ball((0, 0.3, 0.26), 0.36, yellow, part='main'),
        Primitive('ellipsoid', (0, 0.24, 0.68), (0.19, 0.08, 0.22), orange, part='beak'),
        Primitive('cone', (0, -0.12, -0.68), (0.2, 0.2, 0.04), yellow, axis='-z', part='main'),
    ]
    parts += both_sides(ball((0.2, 0.42, 0.51), 0.075, (0.05, 0.05, 0.05)))
    parts += both_sides(Primitive('ellipsoid', (0.42, -0.28, -0.12), (0.12, 0.22, 0.38), wing))
    return parts + both_sides(Primitive('ellipsoid', (0.22, -0.74, 0.08), (0.15, 0.07, 0.22), orange))


def robot() -> list[Primitive]:
    metal, dark, eye = (0.6, 0.64, 0.7), (0.3, 0.32, 0.38), (0.1, 0.85, 0.9)
    parts = [
        Primitive('box', (0, -0.08, 0), (0.4, 0.34, 0.3), metal, rounding=0.05, part='main'),
        Primitive('box', (0, 0.5, 0), (0.32, 0.24, 0.28), metal, rounding=0.05, part='head'),
        Primitive('box', (0, 0.4, 0.28), (0.18, 0.04, 0.04), dark),
        Primitive('box', (0, -0.06, 0.3), (0.2, 0.15, 0.04), (0.95, 0.6, 0.1)),
        Primitive('cylinder', (0, 0.78, 0), (0.05, 0.1, 0), dark),
        ball((0, 0.88, 0), 0.09, (0.85, 0.1, 0.1)),
    ]
    parts += both_sides(ball((0.14, 0.56, 0.26), 0.09, eye))
    parts += both_sides(Primitive('capsule', (0.54, -0.1, 0), (0.12, 0.22, 0), dark))
    return parts + both_sides(Primitive('box', (0.2, -0.64, 0), (0.14, 0.24, 0.16), dark, rounding=0.03))


def penguin() -> list[Primitive]:
    black, white, orange = (0.06, 0.07, 0.12), (0.95, 0.95, 0.95), (1.0, 0.5, 0.04)
    parts = [
        Primitive('ellipsoid', (0, -0.2, -0.03), (0.48, 0.62, 0.44), black, part='main'),
        ball((0, 0.5, 0), 0.35, black, 'main'),
        Primitive('ellipsoid', (0, -0.24, 0.13), (0.37, 0.5, 0.33), white),
        Primitive('cone', (0, 0.44, 0.44), (0.12, 0.17, 0.02), orange, axis='z', part='beak'),
    ]
    parts += both_sides(ball((0.12, 0.52, 0.2), 0.18, white))
    parts += both_sides(ball((0.13, 0.56, 0.35), 0.065, black))
    parts += both_sides(Primitive('ellipsoid', (0.5, -0.14, -0.02), (0.1, 0.4, 0.2), black, part='main'))
    return parts + both_sides(Primitive('ellipsoid', (0.2, -0.8, 0.12), (0.17, 0.08, 0.25), orange))


def cat() -> list[Primitive]:
    fur, white, black = (0.96, 0.5, 0.1), (0.95, 0.94, 0.9), (0.05, 0.05, 0.05)
    parts = [
        Primitive('ellipsoid', (0, -0.36, -0.08), (0.38, 0.5, 0.42), fur, part='main'),
        ball((0, 0.36, 0.14), 0.36, fur, 'main'),
        Primitive('torus', (0, 0.05, 0.06), (0.25, 0.08, 0), (0.1, 0.3, 0.85), part='collar'),
        Primitive('ellipsoid', (0, 0.26, 0.44), (0.16, 0.11, 0.1), white),
        ball((0, 0.33, 0.53), 0.06, (0.95, 0.35, 0.45)),
        *slanted_bar((0, -0.7, -0.4), (0.0, -0.6, -0.62), 0.09, fur, 'main'),
        Primitive('capsule', (0, -0.32, -0.62), (0.09, 0.3, 0), fur, part='main'),
        ball((0, 0.06, -0.62), 0.11, white),
    ]
    parts += both_sides(Primitive('cone', (0.21, 0.71, 0.12), (0.14, 0.17, 0.02), fur, part='main'))
    parts += both_sides(ball((0.15, 0.44, 0.42), 0.085, (0.3, 0.8, 0.25)))
    parts += both_sides(ball((0.15, 0.44, 0.48), 0.05, black))
    parts += both_sides(Primitive('capsule', (0.17, -0.5, 0.28), (0.11, 0.22, 0), fur, part='main'))
    return parts + both_sides(Primitive('ellipsoid', (0.17, -0.78, 0.34), (0.13, 0.09, 0.16), white))
