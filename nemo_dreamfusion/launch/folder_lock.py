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


"""Let one command at a time write in the folder of a run: the same job may be handed in twice."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.ranks import is_global_rank_zero

logger = logging.getLogger('nemo_dreamfusion.launch.folder_lock')

LOCK = '.lock/holder'  # in a folder: exp_manager moves the files of a resumed run away
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, in the first process of the run; the system frees it however that ends.

    Raises:
        ValueError: when another command holds it, with its process and machine.
    """
    if not is_global_rank_zero():
        yield
        return
    (folder / LOCK).parent.mkdir(exist_ok=True)
    with open(folder / LOCK, 'a+', encoding='utf-8') as file:
        _take(file.fileno(), folder)
        file.truncate(0)
        file.write(f'process {os.getpid()} of {socket.gethostname()}')
        file.flush()
        yield


def _take(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:  # a file system without locks
            logger.warning('%s cannot be locked (%s): run one command at a time in it.', folder, error.strerror)
            return
        holder = (folder / LOCK).read_text(encoding='utf-8') or 'another process'
        allowed = f'a folder that is not in use by another process, and {holder} writes in this one'
        advice = (
            'Wait until it has ended: the same command then finds the object finished. Or set exp_manager.exp_dir.'
        )
        refuse('exp_manager.exp_dir', str(folder), allowed, advice)
