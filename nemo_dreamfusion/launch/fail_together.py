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

"""End all processes of a fit when one of them fails, and say in the first which one it was."""

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
    """Leave the block in all processes at once; after an error in this one, end those that ``trainer`` has launched.

    Without it they would wait for this process, on GPUs for half an hour, or fail with a message on the broken connection.
    Every rank but the first holds its own error back for ``GRACE`` seconds: if all ranks have the same error, the first one
    has said it and ended them by then. A RuntimeError of the first rank may be the broken connection itself, so it first
    looks for a process that failed.

    Raises:
        OtherProcessError: on the first rank, when another process ended and broke the connection.
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
    """Return the processes that Lightning has started: the list itself, which its observer looks through every 5 s."""
    return getattr(trainer.strategy.launcher, 'procs', [])


def _look_for_the_cause(others: list[subprocess.Popen], error: RuntimeError) -> None:
    """Raise an OtherProcessError when one of them has ended by itself, or does within ``PATIENCE`` seconds."""
    end = time.monotonic() + PATIENCE
    while True:
        codes = [process.poll() for process in others]
        for rank, code in enumerate(codes, 1):
            if code:
                raise OtherProcessError(rank, code if code > 0 else 128 - code) from error
        if None not in codes or time.monotonic() > end:
            return
        time.sleep(0.05)
