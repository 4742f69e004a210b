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

"""An icosahedron whose triangles are cut in four, as often as asked, with its vertices on the unit sphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Icosphere:
    """V directions, spread evenly, and which of them are neighbours."""

    vertices: np.ndarray  # [V, 3] float64, unit length
    neighbours: tuple[tuple[int, ...], ...]  # of each vertex: 5 of the first twelve, 6 of the others


def make_icosphere(subdivisions: int) -> Icosphere:
    """Return the sphere with 10 * 4^n + 2 vertices.

    >>> len(make_icosphere(2).vertices)
    162
    """
    golden = (1 + 5**0.5) / 2
    pairs = [(a, b) for a in (-1.0, 1.0) for b in (-golden, golden)]
    vertices = [np.roll((0.0, a, b), turn) for turn in range(3) for a, b in pairs]
    vertices = [vertex / np.linalg.norm(vertex) for vertex in vertices]
    edges = _closest(np.array(vertices))
    faces = [(a, b, c) for a, b in edges for c in range(b + 1, 12) if (a, c) in edges and (b, c) in edges]
    for _ in range(subdivisions):
        faces = _cut(vertices, faces)
    near: list[set[int]] = [set() for _ in vertices]
    for face in faces:
        for corner in face:
            near[corner] |= set(face) - {corner}
    return Icosphere(np.array(vertices), tuple(tuple(sorted(one)) for one in near))


def smooth(values: np.ndarray, sphere: Icosphere, passes: int) -> np.ndarray:
    """Return values [V] after each became the mean of itself and its neighbours, so many times."""
    for _ in range(passes):
        values = np.array([np.mean([values[i], *values[list(near)]]) for i, near in enumerate(sphere.neighbours)])
    return values


def _closest(vertices: np.ndarray) -> set[tuple[int, int]]:
    """Return the 30 edges of the icosahedron: the pairs at the least distance."""
    distance = np.linalg.norm(vertices[:, None] - vertices[None], axis=-1)
    least = distance[distance > 0].min()
    return {(int(a), int(b)) for a, b in np.argwhere(distance < 1.01 * least) if a < b}


def _cut(vertices: list[np.ndarray], faces: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Cut each triangle in four; the new vertices are added."""
    middles: dict[tuple[int, int], int] = {}

    def middle(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middles:
            point = vertices[a] + vertices[b]
            middles[key] = len(vertices)
            vertices.append(point / np.linalg.norm(point))
        return middles[key]

    parts = []
    for a, b, c in faces:
        ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
        parts += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return parts
