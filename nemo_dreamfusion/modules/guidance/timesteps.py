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


"""When in the diffusion: the range of times over the run, and how a time is chosen within it.

``progress`` is the share of the run that is done, 0 to 1, so that a recipe means the same for any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import check_range, refuse
from nemo_dreamfusion.parts.schedules import Schedule, linear_schedule


def check_progress_schedule(name: str, value: Schedule, low: float, high: float) -> Schedule:
    """Check a number between low and high, or [start, from, to, end] with 0 <= start <= end <= 1; return it.

    The value is ``from`` until ``start``, then goes linearly, and is ``to`` from ``end`` on.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return check_range(name, value, low, high)
    allowed = f'a number from {low:g} to {high:g}, or [start, from, to, end] with 0 <= start <= end <= 1'
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(values) != 4 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
        refuse(name, value, allowed, f'Set {name}=[0.2,0.98,0.5,0.8] (shares of the run at the ends).')
    start, first, last, end = values
    if not (0 <= start <= end <= 1 and low <= first <= high and low <= last <= high):
        refuse(name, values, allowed)
    return values


class TimestepSchedule:
    """Diffusion times for a batch. The node ``model.guidance.timesteps``; a subclass implements :meth:`sample`.

    Args:
        min_step_ratio: lowest time, as a share of the noise schedule's length: a number, or [start, from, to, end] with
            start and end as shares of the run.
        max_step_ratio: highest time, likewise. Annealing it to small times lets the score find the mode:
            [0.2, 0.98, 0.2, 0.8] is 0.98 for a fifth of the run, then falls to 0.2 at 80 %.
    """

    def __init__(self, *, min_step_ratio: Schedule = 0.02, max_step_ratio: Schedule = 0.98) -> None:
        name = 'model.guidance.timesteps.{}_step_ratio'.format
        self.min_step_ratio = check_progress_schedule(name('min'), min_step_ratio, 0.0, 1.0)
        self.max_step_ratio = check_progress_schedule(name('max'), max_step_ratio, 0.0, 1.0)
        for progress in [0.0, 1.0, *_knots(self.min_step_ratio), *_knots(self.max_step_ratio)]:
            low, high = linear_schedule(self.min_step_ratio, progress), linear_schedule(self.max_step_ratio, progress)
            if low > high:
                allowed = f'at most max_step_ratio, which is {high:g} at {progress:.0%} of the run'
                advice = f'Lower {name("min")} or raise {name("max")}.'
                refuse(name('min'), self.min_step_ratio, allowed, advice)

    def range(self, progress: float, length: int) -> tuple[int, int]:
        """Return the lowest and the highest time, both included, within 0 .. length - 1.

        >>> TimestepSchedule(max_step_ratio=[0.2, 0.98, 0.2, 0.8]).range(0.5, 1000)
        (20, 590)
        """
        low = round(linear_schedule(self.min_step_ratio, progress) * length)
        high = round(linear_schedule(self.max_step_ratio, progress) * length)
        return min(low, length - 1), min(high, length - 1)

    def sample(self, batch: int, length: int, progress: float, generator: torch.Generator) -> Tensor:
        """Return times [batch], int64, on the generator's device, within 0 .. length - 1."""
        raise NotImplementedError


class UniformTimesteps(TimestepSchedule):
    """Draws each image's time from the range, all times equally likely (DreamFusion)."""

    def sample(self, batch: int, length: int, progress: float, generator: torch.Generator) -> Tensor:
        low, high = self.range(progress, length)
        return torch.randint(low, high + 1, (batch,), generator=generator, device=generator.device)


class DescendingTimesteps(TimestepSchedule):
    """One time for all images, which falls over the run; a subclass says how, in :meth:`time`."""

    def time(self, progress: float, length: int) -> int:
        """Return the time at this share of the run, before it is kept within the range."""
        raise NotImplementedError

    def sample(self, batch: int, length: int, progress: float, generator: torch.Generator) -> Tensor:
        low, high = self.range(progress, length)
        time = min(max(self.time(progress, length), low), high)
        return torch.full((batch,), time, dtype=torch.int64, device=generator.device)


class SqrtTimesteps(DescendingTimesteps):
    """t = max - (max - min) sqrt(progress) (HiFA, https://arxiv.org/abs/2305.18766).

    >>> SqrtTimesteps(min_step_ratio=0.3).sample(2, 1000, 0.25, torch.Generator())
    tensor([640, 640])
    """

    def time(self, progress: float, length: int) -> int:
        low, high = self.range(progress, length)
        return round(high - (high - low) * math.sqrt(progress))


class DreamTimeTimesteps(DescendingTimesteps):
    """The t whose share of the weight W at or above it is nearest to ``progress`` (DreamTime, https://arxiv.org/abs/2306.12422).

    W is 1 between 500 and 800 of 1000 and falls like Gaussians of width 300 above and 100 below.

    >>> [DreamTimeTimesteps().time(progress, 1000) for progress in (0.0, 0.25, 0.5, 0.75)]
    [999, 834, 681, 528]
    """

    def time(self, progress: float, length: int) -> int:
        t = torch.arange(length, dtype=torch.float64) * 1000 / length
        above = torch.exp(-((t - 800) ** 2) / (2 * 300**2))
        below = torch.exp(-((t - 500) ** 2) / (2 * 100**2))
        weight = torch.where(t > 800, above, torch.where(t < 500, below, torch.ones_like(t)))
        done = weight.flip(0).cumsum(0).flip(0) / weight.sum()  # share of W at times >= t
        if progress <= 0:
            return length - 1
        return int((done - progress).abs().argmin())


def _knots(schedule: Schedule) -> list[float]:
    """Return the shares of the run where a schedule changes its slope or jumps."""
    return [] if isinstance(schedule, (int, float)) else [schedule[0], schedule[3], min(schedule[3] + 1e-9, 1.0)]
