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

"""What changes with the step, as pure functions of it: shading, image size, loss weights, open levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from nemo_dreamfusion.parts.checks import check_positive, check_range, refuse
from nemo_dreamfusion.parts.types import Shading, StepPlan

if TYPE_CHECKING:
    import torch

Schedule: TypeAlias = float | Sequence[float]  # a number, or [start_step, start, end, end_step]
Resolution: TypeAlias = int | Sequence[Sequence[float]]  # pixels, or a list of [fraction of the run, pixels]


def linear_schedule(value: Schedule, step: float) -> float:
    """Return a number, or the value of [start_step, start, end, end_step] at ``step``.

    Such a schedule is ``start`` before start_step, ``end`` from end_step on, and a straight line between. With
    end_step <= start_step it jumps from ``start`` to ``end`` at start_step.

    Raises:
        ValueError: for a value that is neither.

    >>> [linear_schedule([10, 0.0, 1.0, 20], step) for step in (0, 15, 30)]
    [0.0, 0.5, 1.0]
    """
    check_schedule('schedule', value)
    if isinstance(value, (int, float)):
        return float(value)
    start_step, start, end, end_step = value
    if step < start_step:
        return float(start)
    if step >= end_step:
        return float(end)
    return start + (end - start) * (step - start_step) / (end_step - start_step)


def check_schedule(name: str, value: Schedule) -> Schedule:
    """Return ``value`` if :func:`linear_schedule` takes it; else refuse it as the setting ``name``."""
    if isinstance(value, (int, float)):
        check_range(name, value)
        return value
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 4:
        refuse(name, value, 'a number or [start_step, start, end, end_step]')
    for number in value:
        check_range(name, number)
    return value


def check_resolution(name: str, value: Resolution) -> Resolution:
    """Return ``value`` if :func:`resolution_at` takes it; else refuse it as the setting ``name``."""
    if isinstance(value, (int, float)):
        return check_positive(name, value, integer=True)
    allowed = 'a whole number or a list of [fraction of the run, pixels], the first at 0, in order'
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        refuse(name, value, allowed)
    if any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in value):
        refuse(name, value, allowed)
    fractions = [check_range(name, pair[0], 0, 1) for pair in value]
    if fractions[0] != 0 or sorted(fractions) != fractions:
        refuse(name, value, allowed)
    for pair in value:
        check_positive(name, pair[1], integer=True)
    return value


def resolution_at(value: Resolution, step: int, iters: int) -> int:
    """Return the pixels of a side at ``step`` of ``iters``: those of the last [fraction, pixels] that has begun.

    >>> [resolution_at([[0, 32], [0.5, 64]], step, 100) for step in (49, 50)]
    [32, 64]
    """
    check_resolution('model.resolution', value)
    if isinstance(value, int):
        return value
    return int([pixels for fraction, pixels in value if step >= fraction * iters][-1])


def open_levels(step: int, *, levels: int, start_level: int | None, start_step: int, interval: int) -> int:
    """Return how many of the ``levels`` of a hash grid are in use, coarse to fine as in threestudio.

    ``start_level`` are until ``start_step``, then one more each ``interval`` steps; None opens all from the beginning.

    >>> [open_levels(step, levels=6, start_level=4, start_step=20, interval=5) for step in (0, 24, 25, 1000)]
    [4, 4, 5, 6]
    """
    if start_level is None:
        return levels
    return min(levels, start_level + max(0, step - start_step) // interval)


def plan_step(
    step: int,
    *,
    iters: int,
    latent_iter_ratio: float,
    albedo_iter_ratio: float,
    min_ambient_ratio: float,
    textureless_ratio: float,
    latent_shading: Shading,
    resolution: Resolution,
    latent_resolution: Resolution,
    generator: torch.Generator,
) -> StepPlan:
    """Plan one training step: a function of the step and of two draws, which are made whatever the phase is.

    First the latent phase (step < iters * latent_iter_ratio), then pure albedo (until step <= iters *
    albedo_iter_ratio, counted from the start of the run, as in NeMo), then the shaded phase: the ambient share is
    uniform between ``min_ambient_ratio`` and 1, and ``textureless_ratio`` of the steps show the shape without colour.

    Args:
        step: from 0.
        iters: steps of the whole run.
        latent_iter_ratio: share of the run that works on latents directly.
        albedo_iter_ratio: share of the run after which shading begins.
        min_ambient_ratio: the least ambient light of a shaded step.
        textureless_ratio: share of the shaded steps that are textureless; the others are lambertian.
        latent_shading: what the latent phase renders: ``albedo`` for the linear map, ``normal`` for NeMo's map of
            normals and opacity.
        resolution: pixels of a side, or a list of [fraction of the run, pixels].
        latent_resolution: the same for the latent phase.
        generator: the model's seeded generator.
    """
    import torch  # only here: a command line that is refused imports none

    ambient_draw, texture_draw = torch.rand(2, generator=generator, device=generator.device).tolist()
    ambient, size = 1.0, resolution
    phase: Literal['latent', 'albedo', 'shaded'] = 'albedo'
    shading: Shading = 'albedo'
    if step < iters * latent_iter_ratio:
        phase, shading, size = 'latent', latent_shading, latent_resolution
    elif step > iters * albedo_iter_ratio:
        phase = 'shaded'
        ambient = min_ambient_ratio + (1 - min_ambient_ratio) * ambient_draw
        shading = 'textureless' if texture_draw < textureless_ratio else 'lambertian'
    side = resolution_at(size, step, iters)
    return StepPlan(phase=phase, shading=shading, ambient=ambient, height=side, width=side)
