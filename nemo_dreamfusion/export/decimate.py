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

"""Make a mesh of fewer triangles (the one file that imports fast-simplification).

Method: collapse of edges by quadric errors (Garland and Heckbert, 1997).
"""

from __future__ import annotations

import numpy as np

from nemo_dreamfusion.parts.optional import require

_AGGRESSIVENESS = (5.0, 2.0)  # tried in turn while the result is not closed; the package's own default is 7


def decimate(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices [V, 3] and at most about ``count`` faces [F, 3]; what is that small already stays as it is.

    A closed mesh stays closed: where it would not, it is returned unchanged.

    Raises:
        MissingPackageError: when fast-simplification is not installed.
    """
    if len(faces) <= count:
        return vertices, faces
    package = require('fast_simplification', extra='assets', reason='mesh_faces asks for fewer triangles')
    was_closed = is_closed(faces)
    for aggressiveness in _AGGRESSIVENESS:
        points, triangles = package.simplify(
            vertices.astype(np.float32), faces.astype(np.int32), target_count=count, agg=aggressiveness
        )
        triangles = _drop_degenerate(triangles.astype(np.int64))
        if len(triangles) and (is_closed(triangles) or not was_closed):
            used, renumbered = np.unique(triangles, return_inverse=True)
            return points[used].astype(np.float32), renumbered.reshape(-1, 3)
    return vertices, faces


def is_closed(faces: np.ndarray) -> bool:
    """Tell whether every edge of the faces [F, 3] has exactly two of them, in opposite directions."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    size = int(faces.max()) + 1 if len(faces) else 1
    forward, backward = np.sort(edges[:, 0] * size + edges[:, 1]), np.sort(edges[:, 1] * size + edges[:, 0])
    return bool(len(faces) and (np.diff(forward) > 0).all() and np.array_equal(forward, backward))


def _drop_degenerate(faces: np.ndarray) -> np.ndarray:
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (c != a)]
