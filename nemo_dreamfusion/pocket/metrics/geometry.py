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

"""Compare a mesh with the true surface of a scene: F-score, Chamfer distance, normal consistency.

Both surfaces are sampled evenly by area, the same number of points on each; N points, world units. The ball that every
scene lies in has the diameter 2, of which the F-score's tolerances are shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_positive
from nemo_dreamfusion.pocket.world.sdf import Scene

DIAMETER = 2.0  # of the ball around every scene, world units
TOLERANCES = {'f_score_1': 0.01, 'f_score_2': 0.02}  # shares of the diameter
POINTS = 50_000
_SHORTEST = 4e-3  # world units: the least step along a line, so that a chord shorter than this may be missed
_CAUTION = 0.8  # of a signed distance, some of which are first-order estimates
_HALVINGS = 20


@dataclass(frozen=True)
class SurfacePoints:
    """Points of a surface, evenly by area."""

    positions: np.ndarray  # [N, 3] world units
    normals: np.ndarray  # [N, 3] unit vectors outward


def sample_mesh(vertices: np.ndarray, faces: np.ndarray, count: int = POINTS, seed: int = 0) -> SurfacePoints:
    """Draw points of triangles, evenly by area, with the normals of their faces.

    Args:
        vertices: [V, 3].
        faces: [F, 3], counter-clockwise seen from outside.
        count: points.
        seed: of the draw.

    Raises:
        ValueError: for a mesh without area.
    """
    check_positive('count', count, integer=True)
    corners = np.asarray(vertices, np.float64)[np.asarray(faces)]  # [F, 3, 3]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_area = np.linalg.norm(across, axis=-1)
    if not double_area.sum() > 0:
        raise ValueError('the mesh has no area: it holds no triangle with three different corners.')
    generator = np.random.default_rng(seed)
    chosen = generator.choice(len(corners), size=count, p=double_area / double_area.sum())
    u, v = generator.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = corners[chosen].transpose(1, 0, 2)
    return SurfacePoints(a + u * (b - a) + v * (c - a), across[chosen] / double_area[chosen, None])


@torch.no_grad()
def sample_scene(scene: Scene, count: int = POINTS, seed: int = 0) -> SurfacePoints:
    """Draw points of a scene's surface, evenly by area: the crossings of random lines through the unit ball.

    Lines of an even distribution cross each piece of a surface as often as its area says (the Cauchy-Crofton formula; as a
    sampler: Palais, Palais and Karcher, Point Clouds, https://arxiv.org/abs/1611.04416).

    Raises:
        ValueError: when the lines cross nothing.
    """
    check_positive('count', count, integer=True)
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        crossings = _cross(scene, *_draw_lines(count, generator))
        if not len(crossings):
            raise ValueError('the scene has no surface: of the lines through its ball none meets it.')
        found.append(crossings)
    points = torch.cat(found)
    points = points[torch.randperm(len(points), generator=generator)[:count]]
    return SurfacePoints(points.double().numpy(), scene.normals(points).double().numpy())


def _draw_lines(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw lines that meet the unit ball, evenly: starts outside the ball, unit directions, lengths [L]."""
    direction, other = torch.nn.functional.normalize(torch.randn(2, count, 3, generator=generator), dim=-1)
    across = torch.nn.functional.normalize(torch.linalg.cross(direction, other), dim=-1)
    offset = torch.rand(count, 1, generator=generator).sqrt() * across  # even over the disc that the ball shows
    half = (1 - offset.square().sum(-1, keepdim=True)).clamp_min(0).sqrt() + _SHORTEST
    return offset - half * direction, direction, 2 * half[:, 0]


def _cross(scene: Scene, starts: Tensor, directions: Tensor, lengths: Tensor) -> Tensor:
    """Return where lines [L, 3] cross the surface, on their way in and out: [C, 3]."""
    depth, value = torch.zeros(len(starts)), scene.signed_distance(starts)
    found = [starts[:0]]
    while len(starts):
        then = depth + (_CAUTION * value.abs()).clamp_min(_SHORTEST)
        reached = scene.signed_distance(torch.addcmul(starts, then[:, None], directions))
        crossed = (value > 0) != (reached > 0)
        pick = crossed.nonzero()[:, 0]
        found.append(_bisect(scene, starts[pick], directions[pick], depth[pick], then[pick], value[pick] > 0))
        live = then < lengths
        starts, directions, lengths, depth, value = (x[live] for x in (starts, directions, lengths, then, reached))
    return torch.cat(found)


def _bisect(scene: Scene, starts: Tensor, directions: Tensor, low: Tensor, high: Tensor, outside: Tensor) -> Tensor:
    """Return the points between the depths ``low`` and ``high`` [C] at which the sign changes: [C, 3]."""
    if not len(starts):
        return starts
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        same = (scene.signed_distance(torch.addcmul(starts, middle[:, None], directions)) > 0) == outside
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return torch.addcmul(starts, high[:, None], directions)


def compare_surfaces(found: SurfacePoints, truth: SurfacePoints) -> dict[str, float]:
    """Compare two sampled surfaces.

    Returns:
        The scores by name.

        - ``f_score_1``, ``f_score_2``: harmonic mean of precision (share of the found points within 1 % or 2 % of the
          ball's diameter of a true one) and recall (the other way round): Knapitsch et al., Tanks and Temples, 2017.
        - ``chamfer``: the mean distance to the nearest point of the other surface, mean of both directions, world units.
          Even for equal surfaces it is not below half the points' spacing.
        - ``normal_consistency``: mean |cosine| between the normals of nearest points, mean of both directions, as in
          Mescheder et al., Occupancy Networks, 2019.
    """
    from scipy.spatial import cKDTree

    to_truth, nearest_truth = cKDTree(truth.positions).query(found.positions)
    to_found, nearest_found = cKDTree(found.positions).query(truth.positions)
    scores = {
        name: _f_score(float((to_truth <= share * DIAMETER).mean()), float((to_found <= share * DIAMETER).mean()))
        for name, share in TOLERANCES.items()
    }
    agree_found = np.abs((found.normals * truth.normals[nearest_truth]).sum(-1)).mean()
    agree_truth = np.abs((truth.normals * found.normals[nearest_found]).sum(-1)).mean()
    return {
        **scores,
        'chamfer': float((to_truth.mean() + to_found.mean()) / 2),
        'normal_consistency': float((agree_found + agree_truth) / 2),
    }


def count_components(faces: np.ndarray) -> int:
    """Return how many parts of a mesh no edge connects, given its faces [F, 3].

    >>> count_components(np.array([[0, 1, 2], [2, 1, 3], [4, 5, 6]]))
    2
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    used, corners = np.unique(faces, return_inverse=True)
    corners = corners.reshape(-1, 3)
    edges = np.concatenate([corners[:, :2], corners[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(len(used),) * 2)
    return int(connected_components(graph, directed=False)[0])


def empty_scores() -> dict[str, float]:
    """Return the scores of an object without a surface: nothing agrees, and it is as far as the ball is wide."""
    return {**dict.fromkeys(TOLERANCES, 0.0), 'chamfer': DIAMETER, 'normal_consistency': 0.0}


def _f_score(precision: float, recall: float) -> float:
    total = precision + recall
    return 0.0 if math.isclose(total, 0) else 2 * precision * recall / total
