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
"""Read a mesh of one's own: cleaned, turned outward, placed in the world, and what was done said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.export.geometry import weld
from nemo_dreamfusion.export.mesh_files import SUFFIXES, Mesh, load_mesh
from nemo_dreamfusion.parts.checks import first_line, refuse
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer
from nemo_dreamfusion.parts.optional import MissingPackageError
from nemo_dreamfusion.parts.types import FileMesh, TriangleMesh

FILLS = 0.9  # of the ball in the box, the farthest corner of a mesh that is fitted
MOST_FACES = 3_000_000
SAMPLES = 200_000  # points with colours
NAME = 'model.mesh'


@dataclass(frozen=True)
class OwnMesh:
    """A mesh of a file, ready to start from."""

    welded: TriangleMesh  # in the world: vertices at one place are one, faces wound outward
    file: FileMesh
    colors: (
        tuple[Tensor, Tensor] | None
    )  # points of the surface in the world, [N, 3], and their colours in [0, 1], [N, 3]
    notes: tuple[str, ...]  # what was done, a clause each


def read_own_mesh(
    path: str | Path, *, bound: float = 1.0, up: str = 'y', azimuth_deg: float = 0.0, fit: bool = True
) -> OwnMesh:
    """Read a mesh of one's own.

    Triangles that are none (a corner twice, no area's worth of corners, not finite) and triangles that are there twice are
    left out. Holes, parts that touch or cut each other and edges of many faces stay: what starts from the mesh copes.

    Args:
        path: ends in .glb, .obj, .ply or .stl.
        bound: half the side of the box.
        up: which of the file's axes points up, ``y`` or ``z`` (then its front faces -y, as in Blender).
        azimuth_deg: where the file's front is seen from: 90 for one that faces +x.
        fit: move the middle of the mesh's box to the origin and scale it into the ball; else its units are the world's.

    Raises:
        ValueError: for a file that is missing, cannot be read or holds no triangle, or does not lie in the box unfitted.
    """
    path = Path(path)
    mesh = _read(path)
    faces, notes = _clean(mesh)
    used = np.unique(faces)
    turn = _turn(up, azimuth_deg)
    world = mesh.vertices.astype(np.float64) @ turn.T
    low, high = world[used].min(0), world[used].max(0)
    scale, shift = 1.0, np.zeros(3)
    if fit:
        middle = (low + high) / 2
        radius = np.linalg.norm(world[used] - middle, axis=-1).max()
        if not radius > 0:
            refuse(NAME, str(path), 'a mesh with an extent: all its corners are one point')
        scale = FILLS * bound / radius
        shift = -scale * middle
        notes.append(f'moved by {_short(-middle)} and scaled by {scale:.4g}')
    elif np.abs(world[used]).max() > bound:
        refuse(NAME, str(path), f'within [-{bound:g}, {bound:g}] along each axis', 'Set model.mesh_fit=true.')
    placed = scale * world + shift
    placed[~np.isfinite(placed).all(-1)] = 0  # of no face
    welded, joined, _ = weld(placed[used].astype(np.float32), np.searchsorted(used, faces))
    joined = joined[(joined != joined[:, [1, 2, 0]]).all(-1)]
    outward, flipped = wind_outward(welded.astype(np.float64), joined)
    if flipped:
        notes.append(f'{flipped} of {len(outward)} faces turned outward')
    open_edges = _count_open_edges(outward)
    if open_edges:
        notes.append(f'not closed: {open_edges} edges have no face, or too many, on one side')
    placement = np.concatenate([scale * turn, shift[:, None]], 1)
    uv = mesh.uv if mesh.uv is not None else np.zeros((0, 2))
    in_file = FileMesh(
        vertices=torch.from_numpy(mesh.vertices),
        faces=torch.from_numpy(np.ascontiguousarray(faces)),
        uv=torch.from_numpy(uv.astype(np.float32)),
        placement=torch.from_numpy(placement).float(),
    )
    shape = TriangleMesh(torch.from_numpy(welded), torch.from_numpy(outward))
    return OwnMesh(shape, in_file, _sample_colors(mesh, faces, placed), tuple(notes))


def _read(path: Path) -> Mesh:
    if path.suffix.lower() not in SUFFIXES:
        refuse(NAME, str(path), f'the path of a file that ends in {", ".join(SUFFIXES)}')
    if not path.is_file():
        refuse(NAME, str(path), 'the path of a file that is there')
    refuse_lfs_pointer(path)
    try:
        mesh = load_mesh(path)
    except MissingPackageError:
        raise
    except Exception as error:  # trimesh raises whatever its readers stumble over
        advice = f'Open it in another program and export it again ({first_line(error)}).'
        refuse(NAME, str(path), 'a mesh file that can be read', advice)
    if not len(mesh.faces):
        refuse(NAME, str(path), 'a file with triangles: it holds points or lines only')
    if len(mesh.faces) > MOST_FACES:
        refuse(NAME, str(path), f'a mesh of at most {MOST_FACES} triangles; it has {len(mesh.faces)}', 'Decimate it.')
    return mesh


def _clean(mesh: Mesh) -> tuple[np.ndarray, list[str]]:
    """Return the faces that are triangles, and what was left out."""
    faces, notes = mesh.faces, []
    there = (faces.min(-1) >= 0) & (faces.max(-1) < len(mesh.vertices))
    finite = np.isfinite(mesh.vertices).all(-1)
    sound = there & finite[np.where(there[:, None], faces, 0)].all(-1)
    distinct = (faces != faces[:, [1, 2, 0]]).all(-1)
    _, first = np.unique(np.sort(faces, 1), axis=0, return_index=True)
    once = np.zeros(len(faces), bool)
    once[first] = True
    left_out = {'with corners that are no finite points': ~sound, 'with a corner twice': sound & ~distinct}
    left_out['that are there twice'] = sound & distinct & ~once
    for why, which in left_out.items():
        if which.any():
            notes.append(f'left out {int(which.sum())} faces {why}')
    faces = faces[sound & distinct & once]
    if not len(faces):
        refuse(NAME, notes[0], 'a file with triangles', 'Open it in another program and export it again.')
    return faces, notes


def _turn(up: str, azimuth_deg: float) -> np.ndarray:
    """Return the rotation from the file's axes to the world's, [3, 3]: y up, the front at +z."""
    upright = np.eye(3) if up == 'y' else np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    angle = math.radians(-azimuth_deg)
    c, s = math.cos(angle), math.sin(angle)
    around = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) if azimuth_deg else np.eye(3)
    return around @ upright


def wind_outward(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, int]:
    """Return faces [F, 3] that agree with their neighbours and look outward, and how many were turned round.

    Each face is two nodes of a graph, as it is and turned; neighbours are linked where their windings agree. The parts of
    the graph are then the consistent surfaces, each twice; of both that of the larger enclosed volume is taken.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count, n = len(faces), len(vertices)
    start, end = faces.T.reshape(-1).astype(np.int64), faces[:, [1, 2, 0]].T.reshape(-1).astype(np.int64)
    key = np.minimum(start, end) * n + np.maximum(start, end)
    order = np.argsort(key, kind='stable')
    many = np.bincount(np.unique(key, return_inverse=True)[1].reshape(-1))
    pair = np.flatnonzero((key[order][1:] == key[order][:-1]) & (np.repeat(many, many)[1:] == 2))  # manifold edges
    one, other = order[pair], order[pair + 1]
    same_way = (start[one] == start[other]).astype(np.int64)  # then one of both is the wrong way round
    a, b = one % count, other % count
    rows, columns = np.concatenate([a, a + count]), np.concatenate([b + same_way * count, b + (1 - same_way) * count])
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(2 * count,) * 2)
    parts, part = connected_components(graph, directed=False)
    corner = vertices[faces] - vertices[np.unique(faces)].mean(0)
    volume = (corner[:, 0] * np.cross(corner[:, 1], corner[:, 2])).sum(-1)
    total = np.bincount(part[:count], volume, parts) - np.bincount(part[count:], volume, parts)
    as_it_is, turned = total[part[:count]], total[part[count:]]
    flip = (turned > as_it_is) & (part[:count] != part[count:])  # the same part: it has one side only
    return np.where(flip[:, None], faces[:, ::-1], faces), int(flip.sum())


def _count_open_edges(faces: np.ndarray) -> int:
    start, end = faces.reshape(-1).astype(np.int64), faces[:, [1, 2, 0]].reshape(-1).astype(np.int64)
    keys, number = np.unique(np.minimum(start, end) * (faces.max() + 1) + np.maximum(start, end), return_inverse=True)
    return int((np.bincount(number.reshape(-1), np.where(start < end, 1, -1), len(keys)) != 0).sum())


def _sample_colors(mesh: Mesh, faces: np.ndarray, placed: np.ndarray) -> tuple[Tensor, Tensor] | None:
    """Return points of the surface, even by area, with the colours that the file has there; None where it has none."""
    textured = mesh.uv is not None and mesh.texture is not None
    if not textured and np.ptp(mesh.vertex_colors, axis=0).max() < 1 / 255:
        return None
    corners = placed[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1)
    if not area.sum() > 0:
        raise ValueError('the mesh has no area: all its triangles are points or lines.')
    generator = np.random.default_rng(0)
    face = generator.choice(len(faces), SAMPLES, p=area / area.sum())
    weights = generator.dirichlet(np.ones(3), SAMPLES)[..., None]
    points = (weights * corners[face]).sum(1)
    if mesh.uv is not None and mesh.texture is not None:
        uv = (weights * mesh.uv[faces[face]]).sum(1) % 1.0
        height, width = mesh.texture.shape[:2]
        row = np.minimum((uv[:, 1] * height).astype(np.int64), height - 1)
        column = np.minimum((uv[:, 0] * width).astype(np.int64), width - 1)
        colors = mesh.texture[row, column] / 255
    else:
        colors = (weights * mesh.vertex_colors[faces[face]]).sum(1)
    return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(colors.astype(np.float32))


def _short(values: np.ndarray) -> str:
    return '(' + ', '.join(f'{value:.3g}' for value in values) + ')'
