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

from nemo_dreamfusion.parts.checks import check_choice, check_range, refuse
from nemo_dreamfusion.parts.schedules import Schedule, linear_schedule

SAMPLING = ('uniform', 'sqrt', 'dreamtime')


def check_progress_schedule(name: str, value: Schedule, low: float, high: float) -> Schedule:
    """A number between low and high, or [start, from, to, end] with 0 <= start <= end <= 1.

    The value is ``from`` until ``start``, then goes linearly, and is ``to`` from ``end`` on.
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


class TimestepSampler:
    """Diffusion times for a batch.

    Args:
        min_step_ratio: lowest time, as a share of the schedule's length, or [start, from, to, end].
        max_step_ratio: highest time, likewise; annealing it to small times lets the score find the mode.
        sampling: ``uniform`` draws each image's time from the range; ``sqrt`` descends t = max - (max - min) sqrt(progress)
            (HiFA, arXiv 2305.18766); ``dreamtime`` descends along the published weight W of DreamTime (arXiv 2306.12422).
    """

    def __init__(self, *, min_step_ratio: Schedule, max_step_ratio: Schedule, sampling: str = 'uniform') -> None:
        self.min_step_ratio = check_progress_schedule('model.guidance.min_step_ratio', min_step_ratio, 0.0, 1.0)
        self.max_step_ratio = check_progress_schedule('model.guidance.max_step_ratio', max_step_ratio, 0.0, 1.0)
        self.sampling = check_choice('model.guidance.time_sampling', sampling, SAMPLING)
        knots = [0.0, 1.0, *_knots(self.min_step_ratio), *_knots(self.max_step_ratio)]
        for progress in knots:
            low, high = linear_schedule(self.min_step_ratio, progress), linear_schedule(self.max_step_ratio, progress)
            if low > high:
                refuse(
                    'model.guidance.min_step_ratio',
                    self.min_step_ratio,
                    f'at most max_step_ratio, which is {high:g} at {progress:.0%} of the run',
                    'Lower min_step_ratio or raise max_step_ratio.',
                )

    def range(self, progress: float, length: int) -> tuple[int, int]:
        """Lowest and highest time, both included, within 0 .. length - 1."""
        low = round(linear_schedule(self.min_step_ratio, progress) * length)
        high = round(linear_schedule(self.max_step_ratio, progress) * length)
        return min(low, length - 1), min(high, length - 1)

    def sample(self, batch: int, length: int, progress: float, generator: torch.Generator) -> Tensor:
        """Times [batch], int64, on the generator's device."""
        low, high = self.range(progress, length)
        if self.sampling == 'uniform':
            return torch.randint(low, high + 1, (batch,), generator=generator, device=generator.device)
        if self.sampling == 'sqrt':
            time = round(high - (high - low) * math.sqrt(progress))
        else:
            time = min(max(dreamtime(progress, length), low), high)
        return torch.full((batch,), time, dtype=torch.int64, device=generator.device)


def dreamtime(progress: float, length: int = 1000) -> int:
    """DreamTime: the t whose share of W at or above it is nearest to the share of the run that is done.

    W is 1 between 500 and 800 of 1000 and falls like Gaussians of width 300 above and 100 below.
    """
    t = torch.arange(length, dtype=torch.float64) * 1000 / length
    above = torch.exp(-((t - 800) ** 2) / (2 * 300**2))
    below = torch.exp(-((t - 500) ** 2) / (2 * 100**2))
    weight = torch.where(t > 800, above, torch.where(t < 500, below, torch.ones_like(t)))
    done = weight.flip(0).cumsum(0).flip(0) / weight.sum()  # share of W at times >= t
    if progress <= 0:
        return length - 1
    return int((done - progress).abs().argmin())


def _knots(schedule: Schedule) -> list[float]:
    return [] if isinstance(schedule, (int, float)) else [schedule[0], schedule[3], min(schedule[3] + 1e-9, 1.0)]
