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

"""Interleaved timing of two ways to do the same thing, after a check that they do the same thing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nemo_dreamfusion.ops import native


@dataclass(frozen=True)
class Way:
    """One way to do an operation: ``run`` does it once and returns the tensors to compare."""

    name: str
    run: Callable[[], Iterable[Tensor]]
    body: str = 'auto'  # what NEMO_DREAMFUSION_OPS is set to meanwhile


@dataclass(frozen=True)
class Case:
    """Ours against others on one input."""

    name: str
    setting: str  # the sizes
    ours: Way
    others: tuple[Way, ...]
    tolerance: float = 1e-3  # of the largest difference, relative to the largest value


@dataclass(frozen=True)
class Row:
    """Medians of wall time, and of the processor time of all threads (which a busy machine disturbs less)."""

    name: str
    setting: str
    ours_s: float
    other: str
    other_s: float
    ratio: float
    cpu_ratio: float
    repeats: int
    largest_difference: float

    def as_dict(self) -> dict:
        return asdict(self)


@contextmanager
def forced(body: str):
    """Runs with NEMO_DREAMFUSION_OPS=body."""
    before = os.environ.get(native.VARIABLE)
    os.environ[native.VARIABLE] = body
    try:
        yield
    finally:
        if before is None:
            del os.environ[native.VARIABLE]
        else:
            os.environ[native.VARIABLE] = before


def measure(case: Case, repeats: int) -> list[Row]:
    """One row for each other way."""
    ways = (case.ours, *case.others)
    results = [[t.detach().clone() for t in _run(way)] for way in ways]  # also the warm-up
    differences = [_largest_difference(result, results[0]) for result in results]
    for way, difference in zip(ways, differences):
        if not difference <= case.tolerance:
            raise SystemExit(f'{case.name}: {way.name} differs from {case.ours.name} by {difference:.2g}: no timing.')
    wall, cpu = {way.name: [] for way in ways}, {way.name: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            started, cpu_started = time.perf_counter(), time.process_time()
            _run(way)
            wall[way.name].append(time.perf_counter() - started)
            cpu[way.name].append(time.process_time() - cpu_started)
    wall = {name: statistics.median(times) for name, times in wall.items()}
    cpu = {name: statistics.median(times) for name, times in cpu.items()}
    ours = case.ours.name
    return [
        Row(
            name=case.name,
            setting=case.setting,
            ours_s=wall[ours],
            other=way.name,
            other_s=wall[way.name],
            ratio=wall[way.name] / wall[ours],
            cpu_ratio=cpu[way.name] / cpu[ours],
            repeats=repeats,
            largest_difference=difference,
        )
        for way, difference in zip(case.others, differences[1:])
    ]


def _run(way: Way) -> list[Tensor]:
    with forced(way.body):
        result = list(way.run())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result


def _largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Over all tensors, the largest difference relative to the tensor's largest value."""
    largest = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return float('inf')
        if b.numel():
            largest = max(largest, float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-12)))
    return largest
