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

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends.select import VARIABLE

TOLERANCE = 1e-4  # of a tensor's largest difference, relative to its largest element

Results = Mapping[str, Tensor]


@dataclass(frozen=True)
class Way:
    """One way to do an operation: ``run`` does it once and returns the tensors to compare, by name."""

    name: str
    run: Callable[[], Results]
    backend: str = 'auto'  # what NEMO_DREAMFUSION_OPS is set to meanwhile
    unpack: Callable[[Results], Results] = dict  # from a peer's own layout to ours; not timed
    compared: bool = True  # False where a peer's numbers are of another kind: then only the time counts


@dataclass(frozen=True)
class Skipped:
    """A way that does not run here."""

    name: str
    reason: str


@dataclass(frozen=True)
class Case:
    """Ours against others on one input.

    ``tolerances`` are the exceptions from :data:`TOLERANCE`, by tensor, and ``by_norm`` names the tensors whose
    differences are measured by the Euclidean norm and not by the largest element; each with its reason where it is set.
    """

    name: str
    setting: str  # the sizes
    ours: Way
    others: tuple[Way | Skipped, ...]
    tolerances: Mapping[str, float] = field(default_factory=dict)
    by_norm: tuple[str, ...] = ()
    runs_before: int = 1  # the last of them is compared


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
    differences: dict[str, float]  # of each compared tensor, none where only the time counts

    def as_dict(self) -> dict:
        return asdict(self)


@contextmanager
def force_backend(backend: str):
    """Run with NEMO_DREAMFUSION_OPS=backend."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def measure(case: Case, repeats: int) -> list[Row]:
    """One row for each other way that runs here.

    The ways take turns. In its turn each runs twice and the second time counts: in the first it gets back the memory that
    it lost to another way, page by page, which happens in no fit. Caches are as warm as they are after the same operation;
    what a fit does in between is in the rows of whole steps.
    """
    others = [way for way in case.others if isinstance(way, Way)]
    ways = [case.ours, *others]
    differences = _compare(case, ways)  # also the warm-up
    wall, cpu = {way.name: [] for way in ways}, {way.name: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            _run(way)
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
            differences=differences[way.name],
        )
        for way in others
    ]


def _run(way: Way) -> Results:
    with force_backend(way.backend):
        result = way.run()
        finish()
        return result


def finish() -> None:
    """Waits until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _compare(case: Case, ways: list[Way]) -> dict[str, dict[str, float]]:
    """The differences of each way from ours, by tensor. SystemExit where one is too large: then no time is taken."""
    found = {}
    for way in ways:
        for _ in range(case.runs_before):
            result = _run(way)
        if way.compared:
            found[way.name] = {name: tensor.detach().clone() for name, tensor in way.unpack(result).items()}
    ours, differences = found[case.ours.name], {way.name: {} for way in ways}
    for other, tensors in found.items():
        if tensors.keys() != ours.keys():
            raise SystemExit(f'{case.name}: {other} gives {sorted(tensors)}, and not {sorted(ours)}: no timing.')
        for name, tensor in tensors.items():
            error = difference(tensor, ours[name], by_norm=name in case.by_norm)
            differences[other][name] = error
            if not error <= case.tolerances.get(name, TOLERANCE):
                raise SystemExit(f'{case.name}: {name} of {other} differs from ours by {error:.2g}: no timing.')
    return differences


def difference(found: Tensor, expected: Tensor, *, by_norm: bool = False) -> float:
    """The largest difference relative to the largest element, or the same of norms; infinite for shapes and NaN."""
    if found.shape != expected.shape:
        return math.inf
    if expected.numel() == 0:
        return 0.0
    order = 2 if by_norm else math.inf
    apart, size = (torch.linalg.vector_norm(t.double(), order) for t in (found.double() - expected.double(), expected))
    error = float(apart / size.clamp_min(1e-12))
    return math.inf if math.isnan(error) else error
