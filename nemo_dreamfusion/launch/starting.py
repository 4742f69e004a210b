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
"""Give a run what it starts from, before its first step."""

from __future__ import annotations

import logging

import torch
from omegaconf import DictConfig

from nemo_dreamfusion.export.agreement import orbit_around
from nemo_dreamfusion.export.geometry import smooth_normals
from nemo_dreamfusion.export.own_mesh import OwnMesh, read_own_mesh
from nemo_dreamfusion.export.seen import seen_colors
from nemo_dreamfusion.export.surface import RESOLUTION, device_of, extract_triangles_of
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.starting import fit_colors, start_from_mesh
from nemo_dreamfusion.parts.types import TriangleMesh

VERBS = {'texture': 'paint', 'refine': 'refine'}
logger = logging.getLogger('nemo_dreamfusion.launch.starting')


def read_mesh(cfg: DictConfig, mode: str) -> OwnMesh | None:
    """Read ``model.mesh``, and say what was done to it; None where no file is named.

    Args:
        cfg: of the run.
        mode: of the model.

    Raises:
        ValueError: for a file that cannot be started from, or none where there must be one.
    """
    model = cfg.model
    if not model.get('mesh'):
        if mode != 'init' and not cfg.restore_from_path:
            raise ValueError(f'model.mesh is not set, and there is nothing to {VERBS[mode]}: set model.mesh=<file>.')
        return None
    bound, up, azimuth = model.nerf.bound, model.get('mesh_up', 'y'), model.get('mesh_azimuth_deg', 0.0)
    own = read_own_mesh(model.mesh, bound=bound, up=up, azimuth_deg=azimuth, fit=model.get('mesh_fit', True))
    faces = f'{len(own.welded.faces)} triangles, its {up} axis is up'
    logger.warning('%s: %s.', model.mesh, '; '.join((faces, *own.notes)))
    return own


def start(cfg: DictConfig, model: DreamFusion, own: OwnMesh | None) -> None:
    """Give a model ``restore_from_path`` and ``model.mesh``.

    A mesh stage takes the surface of an object that was rendered as a volume, unless it has a mesh.

    Raises:
        ValueError: for an archive of other parts, or one without a surface.
    """
    if cfg.restore_from_path:
        taken = model.start_from(cfg.restore_from_path)
        if not taken and own is None:
            _start_from_volume(model, cfg.mesh_resolution or RESOLUTION)
    if own is not None:
        start_from_mesh(model, own.welded, own.file)
        if model.mesh_mode == 'refine' and own.colors is not None:
            fit_colors(model, *own.colors)
    model.begin_edit()


def _start_from_volume(model: DreamFusion, resolution: int) -> None:
    """Give a mesh stage the surface of its field's density, and the field the colours that cameras saw there.

    A picture of a volume shows the albedo of a layer; that of the surface alone, which is all that a mesh shows, may be
    another.

    Args:
        model: is changed; its field is that of an object that was rendered as a volume.
        resolution: grid corners along a side, for the surface.

    Raises:
        ValueError: for a field without a surface.
    """
    vertices, faces = extract_triangles_of(model.nerf, resolution=resolution)
    look_up = seen_colors(model.nerf, device_of(model.nerf), orbit_around(model.nerf.bound))
    colors = look_up(vertices, smooth_normals(vertices, faces))
    start_from_mesh(model, TriangleMesh(torch.from_numpy(vertices), torch.from_numpy(faces)))
    fit_colors(model, torch.from_numpy(vertices), torch.from_numpy(colors))
