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

"""Several processes of one fit end together, and what ended them is said once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl

GRACE = 2.0  # seconds


class OtherProcessError(RuntimeError):
    """Another process ended, and this one with it; ``exit_code`` is what that one had."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f'The process of rank {rank} ended with exit code {exit_code}, and the run with it.')
        self.exit_code = exit_code


@contextmanager
def together(trainer: pl.Trainer) -> Iterator[None]:
    """What ``trainer`` does within: an error in this process ends those that it has launched.

    They would wait for it, on GPUs for half an hour, or show what they make of a connection that is gone. The other ranks
    keep an error of their own back for a moment: if all have the same, the first one says it, and they are gone by then.

    Raises:
        OtherProcessError: instead of what the first process makes of the end of another.
    """
    try:
        yield
    except Exception as error:
        launcher = trainer.strategy.launcher
        launched = getattr(launcher, 'procs', [])
        others = list(launched)
        launched.clear()  # else Lightning, which looks every 5 s, may kill this process before it has said why it ends
        try:
            if not trainer.is_global_zero:
                time.sleep(GRACE)
            elif isinstance(error, RuntimeError):
                _look_for_the_cause(others, error)
        finally:
            for process in others:
                process.kill()
        raise


def _look_for_the_cause(others: list[subprocess.Popen], error: RuntimeError) -> None:
    """Raises an OtherProcessError when one of them has ended by itself, or does so now: that broke the connection."""
    end = time.monotonic() + GRACE
    for rank, process in enumerate(others, 1):
        try:
            code = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue
        if code != 0:
            raise OtherProcessError(rank, code if code > 0 else 128 - code) from error
