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

"""Give each triangle of a mesh its place on a square texture: by xatlas, or by a plain grid that cannot fail."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_dreamfusion.export.decimate import decimate
from nemo_dreamfusion.export.unwrap import UnwrapError, can_unwrap, unwrap
from nemo_dreamfusion.parts.optional import available

logger = logging.getLogger('nemo_dreamfusion.export.atlas')

SECONDS = 60.0  # for xatlas, the first time; the second, with fewer faces, half of it
_SMALLEST_CELL = 4  # texels: a pair of triangles in it has three texels each


@dataclass(frozen=True)
class Atlas:
    """A mesh cut along seams, with a place on the texture for each vertex."""

    kind: str  # 'xatlas', 'xatlas, fewer faces' or 'triangles'
    vertices: np.ndarray  # [W, 3] float32
    faces: np.ndarray  # [F, 3] int64
    uv: np.ndarray  # [W, 2] float32 in [0, 1], v from the top row down
    source: np.ndarray  # [W]: the vertex of the uncut mesh
    uncut: np.ndarray  # [F, 3]: the same faces, of the uncut mesh


def make_atlas(
    vertices: np.ndarray,
    faces: np.ndarray,
    size: int,
    *,
    seconds: float = SECONDS,
    meanwhile: Callable[[], Any] | None = None,
) -> Atlas | None:
    """Return an atlas by the first way that works: xatlas, xatlas with half the faces, a grid of triangles.

    Args:
        vertices: [V, 3].
        faces: [F, 3].
        size: texels of a side.
        seconds: for xatlas.
        meanwhile: called once while xatlas works, whose process takes one core.

    Returns:
        The atlas, or None where so many triangles do not fit on the texture.
    """
    if meanwhile is None:
        return _first_atlas(vertices, faces, size, seconds)
    made: Future[Atlas | None] = Future()

    def work() -> None:
        try:
            made.set_result(_first_atlas(vertices, faces, size, seconds))
        except BaseException as error:  # raised below, in the thread that waits
            made.set_exception(error)

    threading.Thread(target=work, name='atlas', daemon=True).start()  # who stops meanwhile need not wait for it
    meanwhile()
    return made.result()


def _first_atlas(vertices: np.ndarray, faces: np.ndarray, size: int, seconds: float) -> Atlas | None:
    if can_unwrap():
        halves = [('xatlas', len(faces), seconds)]
        if available('fast_simplification'):
            halves.append(('xatlas, fewer faces', max(4, len(faces) // 2), seconds / 2))
        for kind, count, limit in halves:
            fewer = (vertices, faces) if count == len(faces) else decimate(vertices, faces, count)
            try:
                source, corners, uv = unwrap(*fewer, seconds=limit)
            except UnwrapError as error:
                logger.warning('xatlas made no atlas of %d triangles: %s.', len(fewer[1]), error)
                continue
            return Atlas(kind, fewer[0][source], corners, uv.astype(np.float32), source, fewer[1])
    return triangle_atlas(vertices, faces, size)


def triangle_atlas(vertices: np.ndarray, faces: np.ndarray, size: int) -> Atlas | None:
    """Put the triangles in pairs into the cells of a grid; None where a cell would have less than 4 x 4 texels.

    All corners stand on texel centres. Between the two triangles of a cell lie three diagonals of texels, so that none
    sees the colours of the other.
    """
    cells = max(1, math.ceil(math.sqrt(math.ceil(len(faces) / 2))))
    cell = size // cells
    if cell < _SMALLEST_CELL:
        return None
    pair, second = np.divmod(np.arange(len(faces)), 2)
    origin = np.stack([pair % cells, pair // cells], -1)[:, None] * cell
    last = cell - 1
    first_corners = np.array([[0, 0], [last - 2, 0], [0, last - 2]])
    corners = np.where(second[:, None, None] == 1, last - first_corners, first_corners)
    uv = (origin + corners + 0.5).reshape(-1, 2) / size
    source = faces.reshape(-1)
    new = np.arange(len(source)).reshape(-1, 3)
    return Atlas('triangles', vertices[source], new, uv.astype(np.float32), source, faces)
