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

"""The regularisers of the volume stage, each with its weight."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from nemo_dreamfusion.modules.losses.base import Losses
from nemo_dreamfusion.modules.losses.opacity import entropy_loss, opacity_loss, z_variance_loss
from nemo_dreamfusion.modules.losses.orientation import orientation_loss
from nemo_dreamfusion.modules.losses.smoothness import normal_smoothness_2d, normal_smoothness_3d
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.schedules import Schedule, check_schedule, linear_schedule
from nemo_dreamfusion.parts.types import RenderOutput

T = TypeVar('T')


class DreamFusionLosses(Losses):
    """The regularisers of a render, each with its weight; the caller multiplies and sums.

    Each weight is a number or a schedule [start_step, start, end, end_step]; a loss of weight 0 is not computed.

    Args:
        lambda_opacity: of :func:`opacity_loss`, against everything solid.
        lambda_entropy: of :func:`entropy_loss`, against fog.
        lambda_z_variance: of :func:`z_variance_loss`, against surfaces that are layers of fog.
        lambda_orientation: of :func:`orientation_loss`, against normals that face away from the camera.
        lambda_normal_smoothness_2d: of :func:`normal_smoothness_2d`, for smooth normals of neighbouring pixels.
        lambda_normal_smoothness_3d: of :func:`normal_smoothness_3d`, for smooth normals of neighbouring points.

    Raises:
        ValueError: for a weight that is neither a number nor a schedule.

    >>> losses = DreamFusionLosses(lambda_orientation=[0, 0.0, 1.0, 100], lambda_entropy=0.0)
    >>> losses.weights(25)['orientation'], losses.needs_normals(25), losses.needs_normals(0)
    (0.25, True, False)
    """

    NEED_NORMALS = ('orientation', 'normal_smoothness_2d', 'normal_smoothness_3d')

    def __init__(
        self,
        *,
        lambda_opacity: Schedule = 0.0,
        lambda_entropy: Schedule = 1e-3,
        lambda_z_variance: Schedule = 0.0,
        lambda_orientation: Schedule = 1e-2,
        lambda_normal_smoothness_2d: Schedule = 0.0,
        lambda_normal_smoothness_3d: Schedule = 0.0,
    ) -> None:
        super().__init__()
        self.schedules = {
            'opacity': lambda_opacity,
            'entropy': lambda_entropy,
            'z_variance': lambda_z_variance,
            'orientation': lambda_orientation,
            'normal_smoothness_2d': lambda_normal_smoothness_2d,
            'normal_smoothness_3d': lambda_normal_smoothness_3d,
        }
        for name, schedule in self.schedules.items():
            check_schedule(f'model.loss.lambda_{name}', schedule)

    def weights(self, step: int) -> dict[str, float]:
        return {name: linear_schedule(schedule, step) for name, schedule in self.schedules.items()}

    def ever(self, name: str) -> bool:
        """Return whether a loss has a weight above 0 at any step."""
        schedule = self.schedules[name]
        return any(w > 0 for w in ([schedule] if isinstance(schedule, (int, float)) else schedule[1:3]))

    def check_renderer(self, draws_mesh: bool) -> None:
        if draws_mesh and self.ever('normal_smoothness_3d'):
            advice = 'Set model.loss.lambda_mesh_normal, of model/loss=dmtet, for it.'
            given = self.schedules['normal_smoothness_3d']
            refuse(
                'model.loss.lambda_normal_smoothness_3d', given, '0 for a mesh, which has no normals beside it', advice
            )

    def needs_normals(self, step: int) -> bool:
        weights = self.weights(step)
        return any(weights[name] > 0 for name in self.NEED_NORMALS)

    def needs_jittered_normals(self, step: int) -> bool:
        return self.weights(step)['normal_smoothness_3d'] > 0

    def forward(self, render: RenderOutput, step: int) -> dict[str, Tensor]:
        """Return the unweighted scalars of the losses whose weight at ``step`` is above 0, by name.

        Raises:
            ValueError: when the render lacks what one of them reads.
        """
        return {name: self._term(name, render) for name, weight in self.weights(step).items() if weight > 0}

    def _term(self, name: str, render: RenderOutput) -> Tensor:
        if name == 'opacity':
            return opacity_loss(given(render.opacity, name, 'opacity'))
        if name == 'entropy':
            return entropy_loss(given(render.opacity, name, 'opacity'))
        if name == 'z_variance':
            return z_variance_loss(given(render.depth_variance, name, 'depth_variance'), render.opacity)
        if name == 'normal_smoothness_2d':
            return normal_smoothness_2d(given(render.normals, name, 'normals'))
        samples = given(render.samples, name, 'samples')
        normals = given(samples.normals, name, 'samples.normals')
        if name == 'orientation':
            return orientation_loss(samples.weights, normals, samples.directions, render.opacity.numel())
        jittered = given(samples.normals_jittered, name, 'samples.normals_jittered')
        return normal_smoothness_3d(samples.weights, normals, jittered)


def given(value: T | None, name: str, source: str) -> T:
    """Return ``value``, or refuse the loss when the renderer left it out."""
    if value is None:
        raise ValueError(
            f'model.loss.lambda_{name} is above 0, but this render has no {source}, which the loss reads: '
            f'set model.loss.lambda_{name}=0, or choose a model/renderer that gives {source}.'
        )
    return value
