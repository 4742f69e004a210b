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
"""How far points are from a mesh, and on which side of it: exact distances, and signs that survive holes.

Of a closed mesh the sign is that of the nearest place's normal, and far from it that of voxels, which no wrong winding
misleads. A mesh with holes has no inside by itself. It counts as solid where nothing from outside enters through openings of
``2 * PORE`` voxels, and its faces as sheets of the thickness ``sheet``, so that a leaf is something rather than nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import TriangleMesh

VOXELS = 96  # along a side of the box
PORE = 2  # voxels
EXACT = 6  # voxels from the surface, within which distances are exact
NEAREST = 4  # faces whose exact distance is taken at each point
SAMPLES = 300_000  # points of the surface, at least one of each face


def signed_distance(points: Tensor, mesh: TriangleMesh, *, bound: float, sheet: float) -> Tensor:
    """Return the distance of points [N, 3] to the surface, negative inside: [N] float32, world units, on the CPU.

    Args:
        points: in the box.
        mesh: what of it lies outside of the box is moved to its side.
        bound: half the side of the box.
        sheet: thickness of the faces of a mesh that is not closed, world units.

    Raises:
        ValueError: for a mesh without a face, or with coordinates that are not finite.
    """
    from scipy.spatial import cKDTree

    vertices, faces = mesh.vertices.detach().cpu().double().numpy(), mesh.faces.cpu().numpy()
    if not len(faces) or not np.isfinite(vertices).all():
        refuse('the mesh', f'{len(vertices)} vertices, {len(faces)} faces', 'one face or more, of finite coordinates')
    vertices = vertices.clip(-bound, bound)
    at = points.detach().cpu().double().numpy()
    samples, of_face = _sample(vertices[faces])
    closed = _is_closed(faces)
    distance, enclosed = _ask_voxels(samples, at, bound, pore=0 if closed else PORE)
    near = np.flatnonzero(distance < EXACT * 2 * bound / VOXELS)
    nearest = of_face[cKDTree(samples).query(at[near], NEAREST)[1]]  # [N, NEAREST]
    distance[near], outward = _nearest(at[near], vertices[faces], _corner_normals(vertices, faces), nearest)
    if closed:
        touching = distance[near] < 2 * 2 * bound / VOXELS  # voxels cannot tell
        inside = enclosed.copy()
        inside[near[touching]] = ~outward[touching]
        signed = np.where(inside, -distance, distance)
    else:
        signed = np.where(enclosed, -distance, distance) - sheet / 2
    return torch.from_numpy(signed.astype(np.float32))


def _sample(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points of triangles [F, 3, 3], evenly by area and the middle of each: [S, 3], and their faces [S]."""
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    counts = 1 + np.floor(SAMPLES * area / max(area.sum(), 1e-30)).astype(np.int64)
    face = np.repeat(np.arange(len(corners)), counts)
    rank = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    # The R2 sequence of Roberts (2018), folded onto the triangle: even also where a face has few points
    u, v = ((0.5 + rank[:, None] * np.array([0.7548776662466927, 0.5698402909980532])) % 1).T
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = corners[face].transpose(1, 0, 2)
    return a + u[:, None] * (b - a) + v[:, None] * (c - a), face


def _corner_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return normals at the corners of faces [F, 3, 3], means over the faces of a vertex by angle.

    With these weights the sign at an edge or a corner is right (Baerentzen and Aanaes, 2005).
    """
    corners = vertices[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-30)
    total = np.zeros_like(vertices)
    for k in range(3):
        u, v = corners[:, (k + 1) % 3] - corners[:, k], corners[:, (k + 2) % 3] - corners[:, k]
        length = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
        angle = np.arccos(((u * v).sum(-1) / np.maximum(length, 1e-30)).clip(-1, 1))
        np.add.at(total, faces[:, k], angle[:, None] * across)
    return total[faces]


def _nearest(
    at: np.ndarray, corners: np.ndarray, normals: np.ndarray, candidates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of points [N, 3] to the nearest of their candidate faces [N, K], and whether it looks at them."""
    best, outward = np.full(len(at), np.inf), np.ones(len(at), bool)
    for face in candidates.T:
        weights = _closest_weights(at, corners[face])[..., None]
        offset = at - (weights * corners[face]).sum(1)
        distance = np.linalg.norm(offset, axis=-1)
        nearer = distance < best
        best[nearer] = distance[nearer]
        outward[nearer] = ((offset * (weights * normals[face]).sum(1)).sum(-1) >= 0)[nearer]
    return best, outward


def _closest_weights(at: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return the weights [N, 3] of the corners [N, 3, 3] of a triangle at its place nearest to each point.

    It is the foot on the plane where that lies inside, else the nearest of the feet on the three sides.
    """
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = ((at - a) * ab).sum(-1), ((at - a) * ac).sum(-1)
    determinant = np.maximum(d00 * d11 - d01 * d01, 1e-30)
    v, w = (d11 * d20 - d01 * d21) / determinant, (d00 * d21 - d01 * d20) / determinant
    plane = np.stack([1 - v - w, v, w], -1)
    best, nearest = plane, np.where((plane >= 0).all(-1), -1.0, np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        side = corners[:, j] - corners[:, i]
        share = ((at - corners[:, i]) * side).sum(-1) / np.maximum((side * side).sum(-1), 1e-30)
        share = share.clip(0, 1)
        distance = np.linalg.norm(at - corners[:, i] - share[:, None] * side, axis=-1)
        foot = np.zeros_like(plane)
        foot[:, i], foot[:, j] = 1 - share, share
        best = np.where((distance < nearest)[:, None], foot, best)
        nearest = np.minimum(nearest, distance)
    return best


def _ask_voxels(samples: np.ndarray, at: np.ndarray, bound: float, pore: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of points [N, 3] to the surface, to a voxel's diagonal; and whether nothing reaches their voxels.

    Voxels that hold some of the surface are reached.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes, distance_transform_edt, generate_binary_structure

    def voxel_of(points: np.ndarray) -> tuple[np.ndarray, ...]:
        index = np.floor((points + bound) / (2 * bound) * VOXELS).astype(np.int64).clip(0, VOXELS - 1)
        return tuple((index + 2 * PORE).T)

    shell = np.zeros((VOXELS + 4 * PORE,) * 3, bool)
    shell[voxel_of(samples)] = True
    sealed = binary_closing(shell, generate_binary_structure(3, 2), iterations=pore) if pore else shell
    solid = binary_fill_holes(sealed)
    there = voxel_of(at)
    return distance_transform_edt(~shell)[there] * (2 * bound / VOXELS), (solid & ~shell)[there]


def _is_closed(faces: np.ndarray) -> bool:
    """Tell whether every edge has as many faces on its one side as on the other."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    size = int(faces.max()) + 1
    forward, backward = np.sort(edges[:, 0] * size + edges[:, 1]), np.sort(edges[:, 1] * size + edges[:, 0])
    return bool(np.array_equal(forward, backward))
