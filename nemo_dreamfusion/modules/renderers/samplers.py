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


"""Where rays are sampled, and how many samples a step has: marching, dropping hidden samples, the sample budget.

Everyone else sees packed samples, some of which may have length 0 and so weigh nothing.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import replace

import torch
from torch import Tensor

from nemo_dreamfusion.modules.renderers.base import DensityFunction
from nemo_dreamfusion.ops.compositing import visible_counts, visible_prefix
from nemo_dreamfusion.ops.marching import keep_first, march_rays
from nemo_dreamfusion.ops.rays import density_front_to_back, positions_on_rays
from nemo_dreamfusion.parts.async_scalars import AsyncScalars
from nemo_dreamfusion.parts.types import Samples

logger = logging.getLogger('nemo_dreamfusion.modules.renderers.samplers')

PROBED = 16  # of so many rays one tells how many samples are seen
MOST = 0.75  # a sample's density alone costs about half of what it costs with colour and gradients


class RaySampler:
    """Samples in fixed steps, in occupied cells that some light still reaches.

    On a GPU the host would have to wait for the number of samples before it can allocate their arrays, twice a step. In
    training it does not: two :class:`SampleBudget` predict the numbers, and places to spare hold samples of length 0.

    Args:
        bound: half the side of the box, world units.
        step_size: length of a sample, world units.
        max_samples: most samples of one ray.
        transmittance_thresh: samples behind this transmittance are dropped; 0 keeps all.

    >>> sampler = RaySampler(bound=1.0, step_size=0.5, max_samples=8, transmittance_thresh=1e-3)
    >>> ray = torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    >>> everywhere = torch.ones(2, 2, 2, dtype=torch.bool)
    >>> sampler.sample(*ray, everywhere, lambda positions: 100.0 * (positions[:, 2] < 0.5)).starts  # solid from there on
    tensor([2.0000, 2.5000])
    """

    def __init__(self, *, bound: float, step_size: float, max_samples: int, transmittance_thresh: float) -> None:
        self.bound = bound
        self.step_size = step_size
        self.max_samples = max_samples
        self.transmittance_thresh = transmittance_thresh
        self.predicts: bool | None = None  # whether training steps use the budgets; None: on a GPU
        self.steps = 0  # with predicted numbers, so far
        self.dropped_steps: set[int] = set()  # those of them that lost rays
        self.marched = SampleBudget(self.dropped_steps)
        self.kept = SampleBudget(self.dropped_steps)

    @torch.no_grad()
    def sample(
        self,
        origins: Tensor,
        directions: Tensor,
        occupied: Tensor,
        density_fn: DensityFunction,
        *,
        jitter: Tensor | None = None,
        training: bool = False,
        leave_hidden: bool = False,
    ) -> Samples:
        """Return the samples of R rays.

        Args:
            origins: [R, 3].
            directions: [R, 3] unit.
            occupied: [G, G, G] bool, the cells that may hold something.
            density_fn: positions [N, 3] -> density [N], per world unit.
            jitter: [R], by which share of a step each ray's samples are moved; None moves none.
            training: the same number of rays comes again, so that numbers of samples can be predicted.
            leave_hidden: where most samples are seen, leave out none, on a CPU: it is cheaper to evaluate them all with
                gradients than all seen ones twice. The caller then hides them, see :meth:`hide`.
        """
        predicts = training and (origins.is_cuda if self.predicts is None else self.predicts)
        capacity = self.marched.predict(len(origins)) if predicts else None
        samples, total = march_rays(
            origins,
            directions,
            occupied,
            bound=self.bound,
            step_size=self.step_size,
            max_samples=self.max_samples,
            jitter=jitter,
            capacity=capacity,
        )
        if predicts:
            self.steps += 1
            self.marched.record(self.steps, total, capacity)
        if self.transmittance_thresh <= 0 or len(samples) == 0:
            return samples
        if leave_hidden and not origins.is_cuda and not predicts:
            if sees_most(samples, origins, directions, density_fn, self.transmittance_thresh):
                return replace(samples, with_hidden=True)
        visible = count_visible(samples, origins, directions, density_fn, self.transmittance_thresh)
        capacity = self.kept.predict(len(origins)) if predicts else None
        if predicts:
            self.kept.record(self.steps, visible.sum(), capacity)
        return keep_first(samples, visible, capacity)

    def hide(self, density: Tensor, samples: Samples) -> Tensor:
        """Take the density [N] from samples behind spent light: they weigh nothing, and nothing flows back to them."""
        if not samples.with_hidden:
            return density
        return torch.where(visible_prefix(density.detach(), samples, self.transmittance_thresh), density, 0.0)

    def count_dropped_steps(self) -> int:
        """Return how many training steps had more samples than places, and so lost rays; waits for the device."""
        for budget in (self.marched, self.kept):
            budget.check_pending()
        return len(self.dropped_steps)


class SampleBudget:
    """Predicts how many samples a step has, so that their arrays can be allocated before the number is known.

    The prediction is ``HEADROOM`` times the largest number of the last ``REMEMBERED`` steps, rounded up to a multiple of
    ``UNIT``. The host reads a step's number two steps later; there is no prediction until it has read ``KNOWN`` numbers
    of as many rays. Where a step has more samples than predicted, its last rays lose theirs, and predictions grow.

    Args:
        dropped_steps: receives the steps that lost rays; the first one is warned of.
    """

    HEADROOM = 1.3
    REMEMBERED = 64
    KNOWN = 16  # cameras differ: a few steps say little of the next
    UNIT = 2**13  # few different sizes, so that the allocator uses the same memory again

    def __init__(self, dropped_steps: set[int]) -> None:
        self.dropped_steps = dropped_steps
        self._rays = -1
        self._seen: deque[int] = deque(maxlen=self.REMEMBERED)
        self._totals = AsyncScalars()
        self._pending: deque[tuple[int, int | None]] = deque()  # step and capacity of each of the totals

    def predict(self, rays: int) -> int | None:
        """Return how many places the samples of so many rays get; None: wait for their number."""
        if rays != self._rays:
            self._read(self._totals.pop_all())
            self._seen.clear()
            self._rays = rays
        self._read(self._totals.pop_due())
        if len(self._seen) < self.KNOWN:
            return None
        return max(math.ceil(max(self._seen) * self.HEADROOM / self.UNIT), 1) * self.UNIT

    def record(self, step: int, total: Tensor, capacity: int | None) -> None:
        """Take note of the number of samples of a step, a tensor of one element, and of what was predicted."""
        self._totals.push(total)
        self._pending.append((step, capacity))

    def check_pending(self) -> None:
        """Look for lost rays in the steps whose numbers are not read yet, without using these for predictions; waits."""
        for (step, capacity), total in zip(self._pending, self._totals.peek_all(), strict=True):
            self._check(step, int(total), capacity)

    def _read(self, totals: list[float]) -> None:
        for total in totals:
            self._seen.append(int(total))
            step, capacity = self._pending.popleft()
            self._check(step, int(total), capacity)

    def _check(self, step: int, total: int, capacity: int | None) -> None:
        if capacity is None or total <= capacity:
            return
        if not self.dropped_steps:
            logger.warning(
                'A training step had %d samples and memory for %d: the last rays of its picture lost theirs. Later steps '
                'get more memory. If metrics.json counts many steps_with_dropped_rays, lower model.renderer.max_steps.',
                total,
                capacity,
            )
        self.dropped_steps.add(step)

    def __reduce__(self):
        """A copy keeps the count and starts without a prediction."""
        return type(self), (self.dropped_steps,)


def sees_most(
    samples: Samples, origins: Tensor, directions: Tensor, density_fn: DensityFunction, threshold: float
) -> bool:
    """Return whether light reaches most samples, by those of every 16th ray; no state, so a resumed run sees the same."""
    counts = samples.offsets.diff()
    probed = torch.arange(len(counts), device=counts.device) % PROBED == 0
    some = keep_first(samples, counts * probed)
    density = density_fn(positions_on_rays(origins, directions, some.middles, some))
    return bool(visible_counts(density, some, threshold).sum() > MOST * len(some))


def count_visible(
    samples: Samples, origins: Tensor, directions: Tensor, density_fn: DensityFunction, threshold: float
) -> Tensor:
    """Return how many samples of each ray light reaches: [R] int64, the first ones of the ray.

    Light reaches a sample when the transmittance before it is ``threshold`` or more. On a CPU the density behind spent
    light is not even evaluated. On a GPU each slab would make the host wait, so all samples are evaluated at once.
    """
    if origins.is_cuda:
        density = density_fn(positions_on_rays(origins, directions, samples.middles, samples))
    else:
        density = density_front_to_back(origins, directions, samples, density_fn, threshold)
    return visible_counts(density, samples, threshold)
