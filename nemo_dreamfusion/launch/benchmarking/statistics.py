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

"""Means over objects and seeds, and how sure they are: 95 % intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean, and where it would lie for other objects and seeds of the same kind, in 95 of 100 cases."""

    mean: float
    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Tell whether two intervals share a value."""
        return self.low <= other.high and other.low <= self.high


def bootstrap(values: Mapping[str, Sequence[float]], draws: int = 2000, seed: int = 0) -> Interval | None:
    """Return the mean over the objects of the mean over their seeds, with the percentile interval of the bootstrap.

    Each draw takes objects with replacement and, of each of them, seeds with replacement (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993; two levels: Davison and Hinkley, 1997, section 3.8).

    Args:
        values: of each object, one of each seed; objects without values are left out.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        None where there are no values.

    >>> bootstrap({'a duck': [1.0, 1.0], 'a tree': [1.0]})
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    groups = [np.asarray(group, float) for group in values.values() if len(group)]
    if not groups:
        return None
    counts = np.array([len(group) for group in groups])
    table = np.zeros((len(groups), counts.max()))
    for row, group in zip(table, groups):
        row[: len(group)] = group
    generator = np.random.default_rng(seed)
    objects = generator.integers(len(groups), size=(draws, len(groups)))
    picks = (generator.random((draws, len(groups), counts.max())) * counts[objects][..., None]).astype(int)
    used = np.arange(counts.max()) < counts[objects][..., None]
    drawn = np.where(used, table[objects[..., None], picks], 0).sum(-1) / counts[objects]
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn.mean(-1), [tail, 100 - tail])
    return Interval(float(np.mean([group.mean() for group in groups])), float(low), float(high))
