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

"""What the texture of an exported mesh shows, against the field that it was baked from: one line for each archive.

python benchmarks/textures.py results/*/DreamFusion.nemo

- baked: texture against the colours that were to be baked, at points of the mesh, even by area: the loss of atlas and texels
- surface: texture against the field's albedo exactly at those points, seen or not
- seen: the same at the points that the pixels of held-out views see
- render: texture against the field's own render in those pixels, where it is opaque
- bare: the field's albedo exactly at those points against its own render: what a texture of the bare albedo would show

PSNR, dB. The held-out views stand between those that the texture was baked for, at two other elevations.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.export.agreement import orbit_around
from nemo_dreamfusion.export.assets import HasScene, export_asset
from nemo_dreamfusion.export.mesh_files import Mesh, load_mesh
from nemo_dreamfusion.export.raster import find_seen, sample_texture
from nemo_dreamfusion.export.seen import seen_colors
from nemo_dreamfusion.export.surface import device_of, drawn_surface, surface_colors
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.images import compute_psnr
from nemo_dreamfusion.parts.types import CameraBatch

POINTS, SIZE, VIEWS = 50_000, 128, 8  # on the mesh; pixels of a side of a view; views on each elevation
ELEVATIONS_DEG = (0.0, 40.0)
COLUMNS = ('baked', 'surface', 'seen', 'render', 'bare')


def measure(model: HasScene, path: Path, **options: Any) -> dict[str, float]:
    """Export the asset of a model to ``path``, a .glb, with options of ``export_asset``, and measure its texture."""
    report = export_asset(model, path, **options).report
    mesh, field = load_mesh(path), model.nerf
    bare = surface_colors(field)
    wanted = (
        bare if drawn_surface(model) is not None else seen_colors(field, device_of(field), orbit_around(field.bound))
    )
    face, share, normals = _sample(mesh, POINTS)
    positions, texture = _at(mesh, face, share)
    found = {
        'baked': _psnr(texture, wanted(positions, normals)),
        'surface': _psnr(texture, bare(positions, normals)),
    }
    views = [_look(model, mesh, camera) for camera in held_out(field.bound)]
    places, shown, rendered, opaque = (np.concatenate(one) for one in zip(*views))
    albedo = bare(places, places)
    found |= {
        'seen': _psnr(shown, albedo),
        'render': _psnr(shown[opaque], rendered[opaque]),
        'bare': _psnr(albedo[opaque], rendered[opaque]),
    }
    return found | {key: report[key] for key in ('uv_use', 'iou', 'faces')}


def held_out(bound: float) -> list[CameraBatch]:
    """Return cameras at azimuths and elevations that no texture is baked for."""
    like, one = orbit_around(bound), torch.ones(1)
    return [
        cameras_from_orbit(one * azimuth, one * elevation, one * like.distance, one * like.fov_deg, SIZE, SIZE)
        for elevation in ELEVATIONS_DEG
        for azimuth in 360 / VIEWS * (np.arange(VIEWS) + 0.5)
    ]


def _sample(mesh: Mesh, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points of the mesh, even by area: faces [N], shares of their corners and normals [N, 3]."""
    random = np.random.default_rng(0)
    a, b, c = mesh.vertices[mesh.faces].astype(float).transpose(1, 0, 2)
    across = np.cross(b - a, c - a)
    area = np.linalg.norm(across, axis=-1)
    face = random.choice(len(area), count, p=area / area.sum())
    return face, random.dirichlet((1, 1, 1), count), across[face] / area[face, None]


def _at(mesh: Mesh, face: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and the texture's colours at shares of the corners of faces."""
    assert mesh.uv is not None and mesh.texture is not None  # of an asset that was just written
    corner = mesh.faces[face]
    uv = (share[..., None] * mesh.uv[corner]).sum(1)
    return (share[..., None] * mesh.vertices[corner]).sum(1), sample_texture(mesh.texture / 255, uv)


def _look(model: HasScene, mesh: Mesh, camera: CameraBatch) -> tuple[np.ndarray, ...]:
    """Return of the pixels that see the mesh: place, texture, render, and whether the render is opaque there."""
    pixel, face, share = find_seen(mesh, camera)
    render = model.render_cameras(camera)
    image, opacity = (x[0].flatten(0, 1).cpu().numpy()[pixel] for x in (render.image, render.opacity))
    return *_at(mesh, face, share), image, opacity[:, 0] > 0.95


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    return compute_psnr(torch.from_numpy(one), torch.from_numpy(other))


def main() -> None:
    """Measure each archive of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('archives', nargs='+')
    parser.add_argument('--out', help='a .json file for the numbers')
    options = parser.parse_args()
    found = {}
    print('| object | ' + ' | '.join(COLUMNS) + ' | uv use | IoU |\n' + '|---' * (len(COLUMNS) + 3) + '|')
    for archive in options.archives:
        model = DreamFusion.restore_from(archive, map_location='cpu')
        with tempfile.TemporaryDirectory() as folder:
            one = found[archive] = measure(model, Path(folder) / 'mesh.glb')
        cells = [f'{one[key]:.1f}' for key in COLUMNS] + [f'{one["uv_use"]:.2f}', f'{one["iou"]:.3f}']
        print(f'| {model.prompts.prompt} | ' + ' | '.join(cells) + ' |', flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
