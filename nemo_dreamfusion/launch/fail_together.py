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

"""Several processes of one fit end together, and the first one says which of them ended the others."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl

GRACE = 2.0  # seconds for which an error is kept back
PATIENCE = 10.0  # seconds for the end of another process, once the connection is broken


class OtherProcessError(RuntimeError):
    """Another process ended, and this one with it; ``exit_code`` is what that one had."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f'The process of rank {rank} ended with exit code {exit_code}, and the run with it.')
        self.exit_code = exit_code


@contextmanager
def fail_together(trainer: pl.Trainer) -> Iterator[None]:
    """What ``trainer`` does within: all leave it together, and an error in this process ends those that it has launched.

    They would wait for it, on GPUs for half an hour, or show what they make of a connection that is gone. The other ranks
    keep an error of their own back for a moment: if all have the same, the first one says it, and they are gone by then (a
    RuntimeError may be the broken connection: there the first one waits for what the others say).

    Raises:
        OtherProcessError: instead of what the first process makes of the end of another.
    """
    try:
        yield
        # The first process may still be writing: if another exited now, Lightning or torchrun would kill it
        trainer.strategy.barrier()
        _launched(trainer).clear()
    except Exception as error:
        launched = _launched(trainer)
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


def _launched(trainer: pl.Trainer) -> list[subprocess.Popen]:
    """The processes that Lightning has started, in the list that its observer looks through every 5 s."""
    return getattr(trainer.strategy.launcher, 'procs', [])


def _look_for_the_cause(others: list[subprocess.Popen], error: RuntimeError) -> None:
    """Raises an OtherProcessError when one of them has ended by itself, or does so now: that broke the connection."""
    end = time.monotonic() + PATIENCE
    while True:
        codes = [process.poll() for process in others]
        for rank, code in enumerate(codes, 1):
            if code:
                raise OtherProcessError(rank, code if code > 0 else 128 - code) from error
        if None not in codes or time.monotonic() > end:
            return
        time.sleep(0.05)
