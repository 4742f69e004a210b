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

"""The quality half of T3Bench (He et al., 2023, https://arxiv.org/abs/2310.02977).

A mesh, its vertices' mean in the origin and its farthest coordinate at 1, is seen unlit on black from the 162 vertices of an
icosphere of radius 2.2, with five angles of view each: 810 pictures. Each is scored as a picture of the prompt. A vertex has
the best of its five scores; three times each vertex becomes the mean of itself and its neighbours, so that one lucky view
counts little; the best vertex is the object's. 20 x + 50 brings ImageReward's scale to about 0 to 100. The numbers are those
of the authors' program (github.com/THU-LYJ-Lab/T3Bench); z, which is up there, is y here. An object without a surface is
black.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nemo_dreamfusion.data.cameras import cameras_from_orbit, orbit_angles
from nemo_dreamfusion.export.agreement import orbit_around
from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.export.seen import seen_colors
from nemo_dreamfusion.export.stills import draw_strip, save_still, to_uint8
from nemo_dreamfusion.export.surface import device_of, drawn_surface, find_triangles, surface_colors
from nemo_dreamfusion.metrics.base import OVERVIEW, Column, ImageScorer, Judged, Metric, choose_device
from nemo_dreamfusion.metrics.icosphere import make_icosphere, smooth
from nemo_dreamfusion.modules.renderers.triangles import to_clip, vertex_normals
from nemo_dreamfusion.ops.antialias import antialias
from nemo_dreamfusion.ops.rasterise import interpolate, rasterise
from nemo_dreamfusion.parts.checks import check_range
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.types import CameraBatch, TriangleMesh

RADIUS = 2.2  # of the cameras, where the mesh reaches to 1
FOVS_DEG = (60.0, 45.0, 36.0, 30.0, 24.0)
PASSES = 3
SCALE, OFFSET = 20.0, 50.0
SHOWN, SHOWN_SIZE = 8, 128  # views of the overview; pixels of a side


class T3BenchQuality(Metric):
    """``metric=t3bench_quality``.

    Args:
        scorer: of the pictures.
        subdivisions: of the icosphere; 2 is T3Bench's, of 162 vertices.
        size: pixels of a side.
        mesh_resolution: grid points along each axis for marching cubes; objects of triangles are taken as they are.
        device: ``auto``, ``cpu``, ``cuda``, ...

    Raises:
        ValueError: for a value out of range.
    """

    name = 't3bench_quality'
    columns = {
        'quality': Column('20 x + 50 of the best vertex'),
        'best': Column('x, the score of the best vertex'),
        'mean': Column('the mean score of all vertices'),
    }

    def __init__(
        self,
        *,
        scorer: ImageScorer,
        subdivisions: int = 2,
        size: int = 512,
        mesh_resolution: int = 256,
        device: str = 'auto',
    ) -> None:
        self.device = choose_device('metric.device', device)
        self.scorer = scorer
        self.subdivisions = check_range('metric.subdivisions', subdivisions, 0, 4, integer=True)
        self.size = check_range('metric.size', size, 16, 2048, integer=True)
        self.mesh_resolution = check_range('metric.mesh_resolution', mesh_resolution, 16, 512, integer=True)
        self.sphere = make_icosphere(subdivisions)

    @property
    def judge(self) -> ImageScorer:
        return self.scorer

    def render_settings(self) -> dict[str, Any]:
        own = {'subdivisions': self.subdivisions, 'size': self.size, 'mesh_resolution': self.mesh_resolution}
        return {**own, 'fovs_deg': list(FOVS_DEG), 'radius': RADIUS, 'background': 'black'}

    def score_settings(self) -> dict[str, Any]:
        return {'passes': PASSES, 'scale': SCALE, 'offset': OFFSET}

    def notes(self) -> list[str]:
        views = len(self.sphere.vertices) * len(FOVS_DEG)
        notes = [f'Each object is seen in {views} pictures of its mesh; the score is that of its best side.']
        if self.subdivisions != 2:
            notes.append(f'{views} pictures, not 810: the scores cannot be compared with published ones.')
        return notes

    def render(self, model: Any, folder: Path) -> dict[str, Any]:
        mesh = colored_surface(model.to(self.device), self.mesh_resolution)
        shown = None if mesh is None else _Drawing(centre(mesh), self.device)
        cameras = self._cameras()
        views: list[dict[str, Any]] = []
        strip: list[tuple[np.ndarray, str]] = []
        every = max(1, len(cameras[0]) // SHOWN)
        for vertex in range(len(self.sphere.vertices)):
            for number, of_fov in enumerate(cameras):
                image = _black(self.size) if shown is None else to_uint8(shown.draw(of_fov[vertex : vertex + 1]))
                file = f'{vertex:03d}_{number}.png'
                save_still(image, folder / file)
                views.append({'file': file, 'vertex': vertex, 'fov_deg': FOVS_DEG[number]})
                if vertex % every == 0 and number == 0 and len(strip) < SHOWN:
                    strip.append((_small(image), f'view {vertex}'))
        with atomic_path(folder / OVERVIEW) as temporary:
            draw_strip(np.stack([image for image, _ in strip]), [label for _, label in strip]).save(temporary)
        return {'views': views, 'faces': 0 if mesh is None else len(mesh.faces)}

    def prepare(self) -> None:
        self.scorer.prepare(self.device)

    def close(self) -> None:
        self.scorer.close()

    def score(self, prompt: str, folder: Path, record: Mapping[str, Any]) -> Judged:
        views = record['views']
        scores = self.scorer.score(prompt, [folder / view['file'] for view in views])
        by_vertex = np.full(len(self.sphere.vertices), -np.inf)
        np.maximum.at(by_vertex, [view['vertex'] for view in views], scores)
        smoothed = smooth(by_vertex, self.sphere, PASSES)
        best = int(smoothed.argmax())
        values = {'quality': SCALE * smoothed[best] + OFFSET, 'best': smoothed[best], 'mean': by_vertex.mean()}
        details = {'vertex': best, 'scores': [float(value) for value in by_vertex]}
        values = {name: float(value) for name, value in values.items()}
        return Judged(values, f'best from view {best}' if record['faces'] else 'no surface', details)

    def _cameras(self) -> list[CameraBatch]:
        """Return, for each angle of view, a camera at each vertex; the sphere's z is our y."""
        x, y, z = torch.from_numpy(self.sphere.vertices).float().unbind(1)
        azimuth_deg, elevation_deg = orbit_angles(torch.stack([x, z, -y], 1))
        same = torch.ones(len(azimuth_deg))
        return [
            cameras_from_orbit(azimuth_deg, elevation_deg, same * RADIUS, same * fov, self.size, self.size)
            for fov in FOVS_DEG
        ]


def colored_surface(model: Any, resolution: int) -> Mesh | None:
    """Return the surface of a finished object in the colours that its pictures show; None where it has none."""
    field = model.nerf
    try:
        vertices, faces = find_triangles(model, resolution=resolution)
    except ValueError:  # an empty or a broken field: a result, and the worst
        return None
    normals = vertex_normals(TriangleMesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces).long())).numpy()
    if drawn_surface(model) is None:
        look_up = seen_colors(field, device_of(field), orbit_around(field.bound))
    else:
        look_up = surface_colors(field)
    return Mesh(vertices, faces, look_up(vertices, normals))


def centre(mesh: Mesh) -> Mesh:
    """Return the mesh with the mean of its vertices in the origin and its farthest coordinate at 1."""
    vertices = mesh.vertices - mesh.vertices.mean(0)
    return replace(mesh, vertices=vertices / max(np.abs(vertices).max(), 1e-12))


class _Drawing:
    """A mesh in its own colours, unlit, on black."""

    def __init__(self, mesh: Mesh, device: torch.device) -> None:
        self.vertices = torch.from_numpy(mesh.vertices).float().to(device)
        self.faces = torch.from_numpy(mesh.faces).to(device)
        self.colors = torch.from_numpy(mesh.vertex_colors).float().to(device)

    @torch.no_grad()
    def draw(self, camera: CameraBatch) -> Tensor:
        """Return [H, W, 3]."""
        camera = camera.to(self.vertices.device)
        clip = to_clip(self.vertices, camera, 1.0)
        raster = rasterise(clip, self.faces, camera.height, camera.width)
        return antialias(interpolate(self.colors, self.faces, raster), raster, clip, self.faces)[0]


def _small(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SHOWN_SIZE, SHOWN_SIZE), Image.Resampling.LANCZOS))


def _black(size: int) -> np.ndarray:
    return np.zeros((size, size, 3), np.uint8)
