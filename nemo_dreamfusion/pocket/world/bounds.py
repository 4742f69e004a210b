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

"""Measure solids: how far they reach along directions, their bounding box, and how they fit into the unit ball."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nemo_dreamfusion.pocket.world.sdf import _AXES, Primitive, Vector

FIT_RADIUS = 0.97  # of the bounding sphere of a scene that is fitted into the unit ball


def measure_reach(primitive: Primitive, directions: np.ndarray) -> np.ndarray:
    """Return the largest d·p over the points p of the solid for each direction d, of any length: [D, 3] → [D].

    This is the support function of its convex hull. It is exact but for a ruffle, whose wave counts at its largest.
    """
    stretched = directions * np.asarray(primitive.stretching)
    d = stretched @ np.asarray(_AXES[primitive.axis], float).T
    return directions @ np.asarray(primitive.center) + _local_reach(primitive, d)


def _local_reach(primitive: Primitive, d: np.ndarray) -> np.ndarray:
    (a, b, c), r, dy = primitive.size, primitive.rounding, d[:, 1]
    flat, length = np.hypot(d[:, 0], d[:, 2]), np.linalg.norm(d, axis=1)
    match primitive.kind:
        case 'ellipsoid':
            return np.linalg.norm(d * primitive.size, axis=1)
        case 'dome':
            return np.linalg.norm(
                d * np.array([a, b, c]) * np.stack([d[:, 0] * 0 + 1, dy > 0, d[:, 0] * 0 + 1], 1), axis=1
            )
        case 'box':
            return np.abs(d) @ (np.array([a, b, c]) - r) + r * length
        case 'cylinder':
            return (a - r) * flat + (b - r) * np.abs(dy) + r * length
        case 'ruffle':
            return a * flat + (b + c) * np.abs(dy)
        case 'cone':
            return np.maximum(a * flat - b * dy, c * flat + b * dy)
        case 'torus':
            return a * flat + b * length
        case 'capsule':
            return b * np.abs(dy) + a * length
        case 'pyramid':
            return np.maximum(a * (np.abs(d[:, 0]) + np.abs(d[:, 2])) - b * dy, b * dy)
    raise ValueError(f'no reach of {primitive.kind!r}')


def measure_box(solids: Sequence[Primitive]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest corner, [3] each, of the axis-aligned bounding box."""
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    reach = np.max([measure_reach(solid, axes) for solid in solids], axis=0)
    return -reach[3:], reach[:3]


def measure_radius(solids: Sequence[Primitive]) -> float:
    """Return the radius of the bounding sphere about the origin, from 2,000 directions (short by less than 1 %)."""
    i = np.arange(2000) + 0.5
    y, turn = 1 - i / 1000, np.pi * (1 + np.sqrt(5)) * i
    flat = np.sqrt(1 - y * y)
    directions = np.stack([flat * np.cos(turn), y, flat * np.sin(turn)], axis=1)  # a Fibonacci lattice
    return float(max(measure_reach(solid, directions).max() for solid in solids))


def translate(solids: Sequence[Primitive], offset: np.ndarray) -> list[Primitive]:
    """Move solids by an offset [3]."""
    x, y, z = map(float, offset)
    vector: Vector = (x, y, z)
    return [solid.translate(vector) for solid in solids]


def fit(solids: Sequence[Primitive]) -> list[Primitive]:
    """Centre the bounding box, and shrink what reaches out of the ball of radius `FIT_RADIUS`; nothing grows."""
    low, high = measure_box(solids)
    centred = translate(solids, -(low + high) / 2)
    factor = min(1.0, FIT_RADIUS / measure_radius(centred))
    return [solid.scale(factor) for solid in centred]
