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

"""Write a finished object as an asset for other programs: a closed surface with few triangles, painted with a texture."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.agreement import Agreement, RendersViews, measure_agreement, orbit_around
from nemo_dreamfusion.export.asset_options import FACES, TEXTURE_SIZE, check_asset_options
from nemo_dreamfusion.export.atlas import make_atlas
from nemo_dreamfusion.export.bake import bake, bake_normals, nearest_normals
from nemo_dreamfusion.export.decimate import decimate, is_closed
from nemo_dreamfusion.export.geometry import make_tangents, smooth_normals, weld
from nemo_dreamfusion.export.mesh import HasField
from nemo_dreamfusion.export.mesh_files import TEXTURED, Mesh, check_mesh_path, save_mesh
from nemo_dreamfusion.export.obj import check_beside
from nemo_dreamfusion.export.own_asset import paint_own, save_in_place, source_of
from nemo_dreamfusion.export.seen import seen_colors
from nemo_dreamfusion.export.surface import RESOLUTION, device_of, drawn_surface, find_triangles, surface_colors
from nemo_dreamfusion.export.unwrap import uv_use
from nemo_dreamfusion.package_info import __version__
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.optional import available

logger = logging.getLogger('nemo_dreamfusion.export.assets')

NO_ATLAS = 'vertex colours'
MANY_TIMES_FEWER = 5  # faces: from there on a normal map keeps what the triangles lost
Look = Callable[[np.ndarray, np.ndarray], np.ndarray]  # positions, normals [N, 3] -> colours [N, 3]
_PACKAGES = {'fast_simplification': 'fast-simplification', 'xatlas': 'xatlas'}


class HasScene(HasField, RendersViews, Protocol):
    """A model with a field that can be looked at, such as ``DreamFusion``."""


@dataclass(frozen=True)
class Asset:
    """What :func:`export_asset` wrote."""

    mesh: Mesh  # as in the file: vertices are doubled along the seams of the atlas
    report: dict[str, Any]  # for metrics.json: see export_asset


def export_asset(
    model: HasScene,
    path: str | Path,
    *,
    resolution: int = RESOLUTION,
    threshold: float | str = 'auto',
    faces: int = FACES,
    texture_size: int = TEXTURE_SIZE,
    about: Mapping[str, Any] | None = None,
    orbit: OrbitCameras | None = None,
    meanwhile: Callable[[], Any] | None = None,
) -> Asset:
    """Write the surface of a model's field, with its albedo as a texture (.glb, .obj, .usdz) or at its vertices (.ply).

    A mesh of one's own keeps its triangles and its units; where only its colours were learnt, and it has one material, the
    file is written as it is with another texture.

    Args:
        model: such as ``DreamFusion``.
        path: ends in .glb, .obj, .usdz, .ply or .stl.
        resolution: grid corners along a side.
        threshold: a density, or ``auto``: see :func:`~nemo_dreamfusion.export.mesh.auto_threshold`.
        faces: triangles at most.
        texture_size: texels of a side.
        orbit: cameras, by default those of the shipped test set. The object is painted as they see it (see
            :func:`~nemo_dreamfusion.export.seen.seen_colors`), and compared with the field's renders in their views.
        about: prompt, seed and whatever else ``asset.extras`` of a .glb shall say.
        meanwhile: other work, called once while xatlas makes an atlas in its own process; not called where none is made.

    Returns:
        The mesh and its report: ``vertices`` and ``faces``, ``faces_before`` they were made fewer, ``closed``, ``atlas``
        (``xatlas``; ``xatlas, fewer faces``; ``triangles``; ``the file's own``; ``vertex colours``), ``uv_use`` and
        ``texture_size`` (None without a texture), ``normal_map`` (whether there is one), ``iou`` and ``psnr`` against the
        field's own renders, ``seconds``.

    Raises:
        ValueError: for another suffix, numbers out of range, an empty or broken field, or a threshold that it does not
            reach. Nothing is written then.
    """
    path = check_mesh_path(path)  # before the work, not after it
    check_asset_options(faces, texture_size)
    if path.suffix.lower() == '.obj':
        check_beside(path)
    if (source := source_of(model)) and path.exists() and Path(source).exists() and path.samefile(source):
        refuse('mesh_fname', str(path), 'another file than model.mesh', 'Set mesh_fname=painted.glb.')
    began, elsewhere = time.monotonic(), 0.0

    def other_work() -> None:
        nonlocal elsewhere
        assert meanwhile is not None
        start = time.monotonic()
        meanwhile()
        elsewhere += time.monotonic() - start

    textured = path.suffix.lower() in TEXTURED
    _warn_of_missing(textured)
    field, surface = model.nerf, drawn_surface(model)
    orbit = orbit or orbit_around(field.bound)
    file = surface.as_in_file() if surface is not None else None
    if surface is not None and file is not None:
        own = paint_own(file, field, texture_size, textured=textured)
        kind, mesh, shown, count = own.kind, own.mesh, own.in_world, len(own.mesh.faces)
        closed = is_closed(weld(mesh.vertices, mesh.faces)[1])
    else:
        look_up = seen_colors(field, device_of(field), orbit) if surface is None else surface_colors(field)
        dense = find_triangles(model, resolution=resolution, threshold=threshold)
        mesh, own, count = _reduce(dense, faces, look_up), None, len(dense[1])
        kind, closed = NO_ATLAS, is_closed(mesh.faces)
        if textured:
            kind, mesh = _paint(mesh, texture_size, look_up, meanwhile and other_work)
            mesh = _keep_detail(mesh, dense)
        shown = mesh
    agreement = measure_agreement(model, shown, orbit)
    if warning := agreement.warning():
        logger.warning('%s', warning)
    report = _report(mesh, kind, agreement) | {'faces_before': count, 'closed': closed}
    moved = surface is None or not surface.keeps_shape
    if own is None or not save_in_place(own, source_of(model), path, moved=moved):
        save_mesh(mesh, path, extras={**(about or {}), 'mesh': report})
    return Asset(mesh, report | {'seconds': round(time.monotonic() - began - elsewhere, 2)})


def describe(model: Any) -> dict[str, Any]:
    """Return what an asset says about its origin: prompt, seed, guidance, licence and the program.

    Args:
        model: a ``DreamFusion``; what another model has not is left out.
    """
    prompts, options = getattr(model, 'prompts', None), getattr(model, 'options', None) or {}
    guidance = options.get('guidance') or {}
    source = guidance.get('source') or guidance.get('checkpoint')
    made_by = {'kind': str(guidance.get('_target_', '')).rpartition('.')[2] or None, 'source': source}
    own = source == 'pocket'
    about = {
        'prompt': prompts and prompts.prompt,
        'seed': options.get('seed'),
        'guidance': made_by if guidance else None,
        'licence': ('Apache-2.0 (the weights of the guidance)' if own else f'see that of {source}')
        if source
        else None,
        'generator': f'nemo_dreamfusion {__version__}',
    }
    return {key: value for key, value in about.items() if value is not None}


def _warn_of_missing(textured: bool) -> None:
    """Say in one line which packages of the extra are not there, and what is done without them."""
    wanted = ('fast_simplification', 'xatlas') if textured else ('fast_simplification',)
    missing = [_PACKAGES[name] for name in wanted if not available(name)]
    if missing:
        without = {'fast-simplification': 'the mesh keeps all its triangles', 'xatlas': 'the atlas is a plain grid'}
        logger.warning(
            "%s not installed: %s. Install the extra: pip install 'nemo_dreamfusion[assets]'.",
            ' and '.join(missing) + (' are' if len(missing) > 1 else ' is'),
            ', '.join(without[name] for name in missing),
        )


def _reduce(dense: tuple[np.ndarray, np.ndarray], faces: int, look_up: Look) -> Mesh:
    vertices, triangles = dense
    if available('fast_simplification'):
        vertices, triangles = decimate(vertices, triangles, faces)
    return Mesh(vertices, triangles, look_up(vertices, smooth_normals(vertices, triangles)))


def _paint(mesh: Mesh, size: int, look_up: Look, meanwhile: Callable[[], Any] | None) -> tuple[str, Mesh]:
    """Return the kind of the atlas and the mesh cut along its seams, with the texture."""
    atlas = make_atlas(mesh.vertices, mesh.faces, size, meanwhile=meanwhile)
    if atlas is None:
        logger.warning(
            '%d triangles do not fit on a texture of %d pixels: the mesh gets vertex colours. Set mesh_faces lower or '
            'texture_size higher.',
            len(mesh.faces),
            size,
        )
        return NO_ATLAS, mesh
    texture = bake(atlas.vertices, atlas.faces, atlas.uv, size, look_up)
    colors = look_up(atlas.vertices, smooth_normals(atlas.vertices, atlas.faces))
    return atlas.kind, Mesh(atlas.vertices, atlas.faces, colors, atlas.uv, texture)


def _keep_detail(mesh: Mesh, dense: tuple[np.ndarray, np.ndarray]) -> Mesh:
    """Give a textured mesh of many times fewer faces a normal map of the surface that it stands for."""
    if mesh.texture is None or mesh.uv is None or len(dense[1]) <= MANY_TIMES_FEWER * len(mesh.faces):
        return mesh
    tangents = make_tangents(mesh.vertices, mesh.faces, mesh.uv, smooth_normals(mesh.vertices, mesh.faces))
    normal_fn = nearest_normals(*dense)
    normal_map = bake_normals(mesh.vertices, mesh.faces, mesh.uv, tangents, len(mesh.texture), normal_fn)
    return replace(mesh, normal_map=normal_map, tangents=tangents)


def _report(mesh: Mesh, kind: str, agreement: Agreement) -> dict[str, Any]:
    painted = mesh.texture is not None and mesh.uv is not None
    return {
        'vertices': len(mesh.vertices),
        'faces': len(mesh.faces),
        'atlas': kind,
        'uv_use': round(uv_use(mesh.uv, mesh.faces), 3) if painted and mesh.uv is not None else None,
        'texture_size': len(mesh.texture) if painted and mesh.texture is not None else None,
        'normal_map': mesh.normal_map is not None,
        **asdict(agreement),
    }
