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

"""What changes with the step, as pure functions of it: shading, image size, weights, open levels."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch

from nemo_dreamfusion.parts.checks import check_positive, check_range, refuse
from nemo_dreamfusion.parts.types import Shading, StepPlan

Schedule = float | Sequence[float]  # a number, or [start_step, start, end, end_step]
Resolution = int | Sequence[Sequence[float]]  # pixels, or a list of [fraction of the run, pixels]


def linear_schedule(value: Schedule, step: int) -> float:
    """A number at ``step``: itself, or the straight line of [start_step, start, end, end_step], flat on both sides.

    With end_step <= start_step it jumps from ``start`` to ``end`` at start_step.
    """
    check_schedule('schedule', value)
    if isinstance(value, Real):
        return float(value)
    start_step, start, end, end_step = value
    if step < start_step:
        return float(start)
    if step >= end_step:
        return float(end)
    return start + (end - start) * (step - start_step) / (end_step - start_step)


def check_schedule(name: str, value: Schedule) -> Schedule:
    """``value`` can be given to :func:`linear_schedule`."""
    numbers = [value] if isinstance(value, Real) else value
    fits = isinstance(numbers, Sequence) and not isinstance(numbers, str) and len(numbers) in (1, 4)
    if not fits or (len(numbers) == 1 and not isinstance(value, Real)):
        refuse(name, value, 'a number or [start_step, start, end, end_step]')
    for number in numbers:
        check_range(name, number)
    return value


def check_resolution(name: str, value: Resolution) -> Resolution:
    """``value`` can be given to :func:`resolution_at`."""
    if isinstance(value, Real):
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
    """Pixels of a side at ``step`` of ``iters``: the last of the pairs [fraction, pixels] that has begun."""
    check_resolution('model.resolution', value)
    if isinstance(value, Real):
        return int(value)
    return int([pixels for fraction, pixels in value if step >= fraction * iters][-1])


def open_levels(step: int, *, levels: int, start_level: int | None, start_step: int, interval: int) -> int:
    """How many levels of a hash grid are in use: ``start_level`` until ``start_step``, one more each ``interval`` steps.

    None opens all from the beginning. (Coarse to fine, as in threestudio's progressive hash grid.)
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
    """The plan of one training step: a function of the step and of two draws, which are made whatever the phase is.

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
    ambient_draw, texture_draw = torch.rand(2, generator=generator, device=generator.device).tolist()
    ambient, phase, shading, size = 1.0, 'albedo', 'albedo', resolution
    if step < iters * latent_iter_ratio:
        phase, shading, size = 'latent', latent_shading, latent_resolution
    elif step > iters * albedo_iter_ratio:
        phase = 'shaded'
        ambient = min_ambient_ratio + (1 - min_ambient_ratio) * ambient_draw
        shading = 'textureless' if texture_draw < textureless_ratio else 'lambertian'
    side = resolution_at(size, step, iters)
    return StepPlan(phase=phase, shading=shading, ambient=ambient, height=side, width=side)
