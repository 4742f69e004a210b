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
"""What an object starts from: another one's weights, or a mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nemo_dreamfusion.models.nemo_archive import check_same_parts, stored_config
from nemo_dreamfusion.parts.types import FileMesh, TriangleMesh

if TYPE_CHECKING:
    from nemo_dreamfusion.models.dreamfusion import DreamFusion

STEPS, POINTS, RATE = 300, 8192, 1e-2  # of the fit of the first colours


def start_from_archive(model: DreamFusion, path: str) -> bool:
    """Take over the weights of a finished object that is made of the same parts.

    A renderer of triangles also takes the field and the background of an object that was rendered as a volume.

    Returns:
        Whether the renderer's weights were taken over.

    Raises:
        ValueError: for an archive of other parts, or of parts of other sizes, by name.
    """
    other_stage = model.renderer.surface is not None and 'surface' not in stored_config(path).get('renderer', {})
    parts = ('nerf', 'background') if other_stage else ('nerf', 'background', 'renderer')
    check_same_parts(path, model.options, parts)
    weights = type(model).restore_from(path, map_location='cpu').state_dict()
    own = model.state_dict()
    taken = {name: value for name, value in weights.items() if name.partition('.')[0] in parts}
    any_size = {  # triangles of another mesh, a first shape
        f'{place}.{name}' for place, part in model.named_modules() for name in getattr(part, 'ANY_SIZE', ())
    }
    for name, value in taken.items():
        if name not in any_size and (name not in own or own[name].shape != value.shape):
            part = name.partition('.')[0]
            raise ValueError(
                f'restore_from_path = {path} holds {name} of shape {tuple(value.shape)}, which this run has not: '
                f'set model/{part} and its options as the archive was made.'
            )
    model.load_state_dict({**own, **taken})
    return not other_stage


def start_from_mesh(model: DreamFusion, mesh: TriangleMesh, file: FileMesh | None = None) -> None:
    """Take a mesh for the surface that is drawn, or for the first shape of a field that is drawn as a volume.

    Args:
        model: is changed.
        mesh: in the box of the field.
        file: the same triangles as in their file.

    Raises:
        ValueError: for a mesh that leaves nothing to draw.
    """
    if model.renderer.surface is not None:
        model.renderer.surface.start_from(mesh, file)
    else:
        model.nerf.start_from(mesh)


def fit_colors(model: DreamFusion, points: Tensor, colors: Tensor) -> None:
    """Fit the field's albedo to colours [N, 3] at points [N, 3] in the box; no other part changes."""
    generator = torch.Generator().manual_seed(model.options['seed'])
    parameters = [p for p in model.nerf.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=RATE, eps=1e-15)
    with torch.enable_grad():
        for _ in range(STEPS):
            row = torch.randint(len(points), (POINTS,), generator=generator)
            albedo = model.nerf(points[row].to(model.device)).albedo
            loss = (albedo - colors[row].to(albedo)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
