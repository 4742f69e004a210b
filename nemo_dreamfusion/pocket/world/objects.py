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

"""Build the named objects, each a list of primitives inside the unit ball, its front facing +z.

Parts are thick: at 64 pixels one pixel is about 0.033 units wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nemo_dreamfusion.pocket.world.sdf import Primitive, Vector


def ball(center: Vector, radius: float, color: Vector) -> Primitive:
    """Build a sphere."""
    return Primitive('ellipsoid', center, (radius, radius, radius), color)


def _both_sides(primitive: Primitive) -> list[Primitive]:
    """Return the primitive and its mirror image in the plane x = 0 (for kinds that are symmetric in x)."""
    x, y, z = primitive.center
    return [primitive, primitive.translate((-2 * x, 0, 0))]


def _hamburger() -> list[Primitive]:
    bun, seed = (0.86, 0.53, 0.2), (0.98, 0.9, 0.65)
    parts = [
        Primitive('cylinder', (0, -0.5, 0), (0.76, 0.12, 0), bun, rounding=0.12),
        Primitive('cylinder', (0, -0.26, 0), (0.82, 0.1, 0), (0.3, 0.13, 0.06), rounding=0.08),
        Primitive('cylinder', (0, -0.04, 0), (0.88, 0.11, 0), (1.0, 0.84, 0.1), rounding=0.03),
        Primitive('ruffle', (0, 0.14, 0), (0.9, 0.06, 0.045), (0.25, 0.66, 0.12), rounding=0.03),
        Primitive('dome', (0, 0.18, 0), (0.82, 0.47, 0.82), bun),
    ]
    for i in range(6):
        angle = math.tau * i / 6
        parts.append(ball((0.45 * math.sin(angle), 0.555, 0.45 * math.cos(angle)), 0.06, seed))
    return parts + [ball((0, 0.645, 0), 0.06, seed)]


def _snowman() -> list[Primitive]:
    snow, black = (0.84, 0.88, 0.95), (0.06, 0.06, 0.07)
    parts = [
        ball((0, -0.5, 0), 0.43, snow),
        ball((0, 0.1, 0), 0.33, snow),
        ball((0, 0.5, 0), 0.26, snow),
        Primitive('torus', (0, 0.31, 0), (0.22, 0.075, 0), (0.82, 0.1, 0.1)),
        Primitive('cone', (0, 0.48, 0.38), (0.09, 0.16, 0.0), (1.0, 0.45, 0.05), axis='z'),
        Primitive('cylinder', (0, 0.69, 0), (0.32, 0.04, 0), black),
        Primitive('cylinder', (0, 0.82, 0), (0.2, 0.12, 0), black),
        ball((0, 0.1, 0.32), 0.065, black),
        ball((0, -0.22, 0.3), 0.065, black),
        ball((0, -0.44, 0.42), 0.065, black),
    ]
    parts += _both_sides(ball((0.11, 0.58, 0.21), 0.06, black))
    return parts + _both_sides(Primitive('capsule', (0.48, 0.16, 0), (0.055, 0.2, 0), (0.4, 0.22, 0.08), axis='x'))


def _mushroom() -> list[Primitive]:
    red, white, cream = (0.82, 0.07, 0.06), (0.95, 0.95, 0.92), (0.92, 0.84, 0.68)
    parts = [
        Primitive('cone', (0, -0.42, 0), (0.34, 0.44, 0.24), cream),
        Primitive('cylinder', (0, 0.0, 0), (0.78, 0.05, 0), cream, rounding=0.03),
        Primitive('dome', (0, 0.02, 0), (0.85, 0.76, 0.85), red),
        ball((0, 0.72, 0), 0.17, white),
    ]
    for i in range(6):
        angle, (radius, height) = math.tau * (i + 0.5) / 6, ((0.62, 0.45), (0.74, 0.28))[i % 2]
        parts.append(ball((radius * math.sin(angle), height, radius * math.cos(angle)), 0.16, white))
    return parts


def _tree() -> list[Primitive]:
    return [
        Primitive('cylinder', (0, -0.66, 0), (0.16, 0.26, 0), (0.42, 0.22, 0.08)),
        Primitive('cone', (0, -0.06, 0), (0.66, 0.42, 0.0), (0.08, 0.42, 0.12)),
        Primitive('cone', (0, 0.48, 0), (0.5, 0.42, 0.0), (0.14, 0.55, 0.16)),
    ]


def _table() -> list[Primitive]:
    wood, dark = (0.66, 0.4, 0.17), (0.42, 0.22, 0.08)
    parts = [Primitive('box', (0, 0.34, 0), (0.76, 0.09, 0.54), wood, rounding=0.03)]
    for z in (-0.4, 0.4):
        parts += _both_sides(Primitive('cylinder', (0.6, -0.14, z), (0.11, 0.42, 0), dark))
    return parts


def _chair() -> list[Primitive]:
    wood, cushion = (0.58, 0.33, 0.13), (0.8, 0.14, 0.12)
    parts = [
        Primitive('box', (0, -0.16, 0), (0.46, 0.08, 0.46), wood, rounding=0.03),
        Primitive('box', (0, -0.06, 0.05), (0.38, 0.07, 0.37), cushion, rounding=0.05),
        Primitive('box', (0, 0.34, -0.38), (0.46, 0.5, 0.08), wood, rounding=0.04),
        Primitive('box', (0, 0.42, -0.3), (0.34, 0.32, 0.06), cushion, rounding=0.05),
    ]
    for z in (-0.36, 0.36):
        parts += _both_sides(Primitive('box', (0.36, -0.52, z), (0.1, 0.34, 0.1), wood))
    return parts


def _house() -> list[Primitive]:
    wall, roof, glass = (0.92, 0.8, 0.56), (0.68, 0.16, 0.1), (0.3, 0.62, 0.9)
    parts = [
        Primitive('box', (0, -0.34, 0), (0.52, 0.4, 0.46), wall),
        Primitive('pyramid', (0, 0.4, 0), (0.66, 0.38, 0), roof),
        Primitive('box', (0, -0.5, 0.46), (0.13, 0.24, 0.04), (0.38, 0.19, 0.07)),
        Primitive('box', (0.3, 0.42, -0.12), (0.1, 0.24, 0.1), (0.5, 0.42, 0.4)),
    ]
    return parts + _both_sides(Primitive('box', (0.32, -0.25, 0.46), (0.12, 0.12, 0.04), glass))


def _rocket() -> list[Primitive]:
    body, red = (0.82, 0.84, 0.88), (0.82, 0.1, 0.08)
    parts = [
        Primitive('cylinder', (0, 0.0, 0), (0.32, 0.45, 0), body),
        Primitive('cone', (0, 0.68, 0), (0.32, 0.24, 0.03), red),
        Primitive('cone', (0, -0.52, 0), (0.26, 0.09, 0.18), (0.3, 0.3, 0.33)),
        Primitive('cone', (0, -0.76, 0), (0.21, 0.18, 0.02), (1.0, 0.6, 0.08), axis='-y'),
    ]
    parts += _both_sides(Primitive('box', (0.44, -0.4, 0), (0.18, 0.24, 0.06), red))
    parts += _both_sides(Primitive('ellipsoid', (0.3, 0.16, 0), (0.06, 0.15, 0.15), (0.15, 0.4, 0.85)))
    for z in (-1, 1):
        parts.append(Primitive('box', (0, -0.4, 0.44 * z), (0.06, 0.24, 0.18), red))
        parts.append(Primitive('ellipsoid', (0, 0.16, 0.3 * z), (0.15, 0.15, 0.06), (0.15, 0.4, 0.85)))
    return parts


def _car() -> list[Primitive]:
    paint, glass, black = (0.1, 0.28, 0.82), (0.12, 0.15, 0.2), (0.05, 0.05, 0.06)
    parts = [
        Primitive('box', (0, -0.13, 0), (0.43, 0.2, 0.84), paint, rounding=0.08),
        Primitive('box', (0, 0.16, -0.12), (0.36, 0.19, 0.44), glass, rounding=0.06),
        Primitive('box', (0, 0.34, -0.12), (0.37, 0.06, 0.42), paint, rounding=0.04),
        Primitive('box', (0, -0.18, 0.83), (0.16, 0.07, 0.03), black),
    ]
    parts += _both_sides(Primitive('ellipsoid', (0.28, -0.1, 0.82), (0.11, 0.11, 0.06), (1.0, 0.92, 0.5)))
    parts += _both_sides(Primitive('box', (0.28, -0.1, -0.83), (0.1, 0.07, 0.04), (0.85, 0.06, 0.06)))
    for z in (-0.5, 0.5):
        parts += _both_sides(Primitive('cylinder', (0.38, -0.32, z), (0.22, 0.11, 0), black, axis='x'))
        parts += _both_sides(Primitive('cylinder', (0.4, -0.32, z), (0.1, 0.11, 0), (0.7, 0.7, 0.72), axis='x'))
    return parts


def _duck() -> list[Primitive]:
    yellow, wing, orange = (0.98, 0.8, 0.1), (0.86, 0.62, 0.05), (1.0, 0.42, 0.04)
    parts = [
        Primitive('ellipsoid', (0, -0.34, -0.08), (0.47, 0.4, 0.64), yellow),
        ball((0, 0.3, 0.26), 0.36, yellow),
        Primitive('ellipsoid', (0, 0.24, 0.68), (0.19, 0.08, 0.22), orange),
        Primitive('cone', (0, -0.12, -0.68), (0.2, 0.2, 0.04), yellow, axis='-z'),
    ]
    parts += _both_sides(ball((0.2, 0.42, 0.51), 0.075, (0.05, 0.05, 0.05)))
    parts += _both_sides(Primitive('ellipsoid', (0.42, -0.28, -0.12), (0.12, 0.22, 0.38), wing))
    return parts + _both_sides(Primitive('ellipsoid', (0.22, -0.74, 0.08), (0.15, 0.07, 0.22), orange))


def _ice_cream_cone() -> list[Primitive]:
    return [
        Primitive('cone', (0, -0.42, 0), (0.44, 0.48, 0.04), (0.78, 0.5, 0.2), axis='-y'),
        ball((0, 0.2, 0), 0.47, (0.95, 0.88, 0.68)),
        ball((0, 0.56, 0), 0.36, (0.95, 0.45, 0.55)),
    ]


def _robot() -> list[Primitive]:
    metal, dark, eye = (0.6, 0.64, 0.7), (0.3, 0.32, 0.38), (0.1, 0.85, 0.9)
    parts = [
        Primitive('box', (0, -0.08, 0), (0.4, 0.34, 0.3), metal, rounding=0.05),
        Primitive('box', (0, 0.5, 0), (0.32, 0.24, 0.28), metal, rounding=0.05),
        Primitive('box', (0, 0.4, 0.28), (0.18, 0.04, 0.04), dark),
        Primitive('box', (0, -0.06, 0.3), (0.2, 0.15, 0.04), (0.95, 0.6, 0.1)),
        Primitive('cylinder', (0, 0.78, 0), (0.05, 0.1, 0), dark),
        ball((0, 0.88, 0), 0.09, (0.85, 0.1, 0.1)),
    ]
    parts += _both_sides(ball((0.14, 0.56, 0.26), 0.09, eye))
    parts += _both_sides(Primitive('capsule', (0.54, -0.1, 0), (0.12, 0.22, 0), dark))
    return parts + _both_sides(Primitive('box', (0.2, -0.64, 0), (0.14, 0.24, 0.16), dark, rounding=0.03))


def _boat() -> list[Primitive]:
    hull, sail = (0.55, 0.27, 0.1), (0.93, 0.93, 0.9)
    return [
        Primitive('box', (0, -0.5, -0.06), (0.34, 0.2, 0.62), hull, rounding=0.08),
        Primitive('cone', (0, -0.46, 0.66), (0.26, 0.16, 0.08), hull, axis='z'),
        Primitive('box', (0, -0.3, -0.06), (0.26, 0.04, 0.52), (0.8, 0.58, 0.3)),
        Primitive('cylinder', (0, 0.24, 0.1), (0.06, 0.62, 0), (0.4, 0.22, 0.08)),
        Primitive('pyramid', (0, 0.28, -0.18), (0.34, 0.46, 0), sail),
        Primitive('box', (0, 0.8, 0.22), (0.04, 0.08, 0.16), (0.85, 0.1, 0.1)),
    ]


def _cake() -> list[Primitive]:
    parts = [
        Primitive('cylinder', (0, -0.58, 0), (0.8, 0.05, 0), (0.6, 0.65, 0.75)),
        Primitive('cylinder', (0, -0.3, 0), (0.68, 0.25, 0), (0.45, 0.24, 0.12), rounding=0.05),
        Primitive('cylinder', (0, -0.02, 0), (0.7, 0.08, 0), (0.97, 0.6, 0.72), rounding=0.06),
        Primitive('cylinder', (0, 0.17, 0), (0.4, 0.16, 0), (0.97, 0.88, 0.75), rounding=0.05),
        Primitive('cylinder', (0, 0.46, 0), (0.07, 0.16, 0), (0.35, 0.55, 0.95)),
        Primitive('ellipsoid', (0, 0.72, 0), (0.08, 0.13, 0.08), (1.0, 0.7, 0.1)),
    ]
    for i in range(6):
        angle = math.tau * i / 6
        parts.append(ball((0.54 * math.sin(angle), 0.1, 0.54 * math.cos(angle)), 0.09, (0.85, 0.06, 0.12)))
    return parts


OBJECTS: dict[str, Callable[[], list[Primitive]]] = {
    'hamburger': _hamburger,
    'snowman': _snowman,
    'mushroom': _mushroom,
    'tree': _tree,
    'table': _table,
    'chair': _chair,
    'house': _house,
    'rocket': _rocket,
    'car': _car,
    'duck': _duck,
    'ice cream cone': _ice_cream_cone,
    'robot': _robot,
    'boat': _boat,
    'cake': _cake,
}

# Objects whose front, side and back views differ.
WITH_FRONT = ('snowman', 'chair', 'house', 'car', 'duck', 'robot')
