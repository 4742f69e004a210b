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
"""The regularisers of the mesh stage, each with its weight: those of a picture, and those of the surface."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nemo_dreamfusion.modules.losses.dreamfusion import DreamFusionLosses, given
from nemo_dreamfusion.modules.losses.laplacian import laplacian_loss
from nemo_dreamfusion.modules.losses.normal_consistency import normal_consistency
from nemo_dreamfusion.modules.losses.normal_variation import normal_variation
from nemo_dreamfusion.modules.losses.sign_change import sign_change_loss
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.schedules import Schedule, check_schedule
from nemo_dreamfusion.parts.types import RenderOutput


class MeshLosses(DreamFusionLosses):
    """The regularisers of a render of a mesh; see :class:`DreamFusionLosses`.

    Args:
        lambda_mesh_normal: of :func:`normal_consistency`, for faces that look as their neighbours do.
        lambda_mesh_normal_variation: of :func:`normal_variation`, likewise, but for edges that stay sharp.
        lambda_mesh_laplacian: of :func:`laplacian_loss`, for evenly spread vertices.
        lambda_sign_change: of :func:`sign_change_loss`, against floaters; for a surface on a grid.
        options: those of :class:`DreamFusionLosses`.

    Raises:
        ValueError: for a weight that is neither a number nor a schedule.
    """

    OF_A_MESH = ('mesh_normal', 'mesh_normal_variation', 'mesh_laplacian', 'sign_change')

    def __init__(
        self,
        *,
        lambda_mesh_normal: Schedule = 0.5,
        lambda_mesh_normal_variation: Schedule = 0.0,
        lambda_mesh_laplacian: Schedule = 0.5,
        lambda_sign_change: Schedule = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        given_weights = (lambda_mesh_normal, lambda_mesh_normal_variation, lambda_mesh_laplacian, lambda_sign_change)
        own = dict(zip(self.OF_A_MESH, given_weights, strict=True))
        for name, schedule in own.items():
            check_schedule(f'model.loss.lambda_{name}', schedule)
        self.schedules |= own

    def check_renderer(self, draws_mesh: bool) -> None:
        super().check_renderer(draws_mesh)
        for name in self.OF_A_MESH:
            if not draws_mesh and self.ever(name):
                advice = 'Choose model/renderer=mesh, or model/loss=dreamfusion.'
                refuse(
                    f'model.loss.lambda_{name}', self.schedules[name], '0 for a renderer that draws no mesh', advice
                )

    def _term(self, name: str, render: RenderOutput) -> Tensor:
        if name not in self.OF_A_MESH:
            return super()._term(name, render)
        mesh = given(render.mesh, name, 'mesh')
        if name == 'sign_change':
            return sign_change_loss(given(mesh.crossings, name, 'mesh.crossings'))
        of_triangles = {
            'mesh_normal': normal_consistency,
            'mesh_normal_variation': normal_variation,
            'mesh_laplacian': laplacian_loss,
        }
        return of_triangles[name](mesh.vertices, mesh.faces)
