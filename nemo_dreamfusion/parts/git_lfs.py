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

"""Git LFS pointers: the text files of some 130 bytes that a clone without Git LFS has in the place of large files.

The format is https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
"""

from __future__ import annotations

import shlex
from pathlib import Path

_FIRST_LINE = b'version https://git-lfs.github.com/spec/'
_LARGEST = 1024  # bytes; the format's own bound


def is_lfs_pointer(path: str | Path) -> bool:
    """Return whether a file is a Git LFS pointer; False where there is no file."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > _LARGEST:
        return False
    with path.open('rb') as file:
        return file.read(len(_FIRST_LINE)) == _FIRST_LINE


def refuse_lfs_pointer(path: str | Path) -> None:
    """Raise a ValueError with the command that fetches the content, where a file is a Git LFS pointer."""
    if is_lfs_pointer(path):
        path = Path(path)
        raise ValueError(
            f'{str(path)!r} is a Git LFS pointer ({path.stat().st_size} bytes of text), not the file itself: the repository '
            f'was cloned without Git LFS. Install Git LFS and run: git -C {shlex.quote(str(path.parent))} lfs pull'
        )
