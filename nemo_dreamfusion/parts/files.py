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

"""Write files and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path``, of the same suffix, to write a file to; move it to ``path`` when the block ends well.

        with atomic_path('out/preview.png') as temporary:
            image.save(temporary)

    After an error nothing is left of it, and whatever stood at ``path`` still stands there. Contents and name are synced
    to disk, so that this also holds when the machine goes down.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _name_beside(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 through :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits, as ``sha256sum`` prints it."""
    with open(path, 'rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` to fill; move it to ``path`` when the block ends well.

    What stood at ``path`` (a folder with all that is in it, or a file) is removed after that. After an error nothing is
    left of the new folder and the old one still stands there. Contents and names are synced to disk. A process that is
    killed between the two renames at the end leaves the old folder beside ``path`` under a hidden name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _name_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for entry in (temporary, *temporary.rglob('*')):
            _sync(entry)
        _swap(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: Path, setting: str) -> None:
    """Make the folder and try to write in it.

    Raises:
        ValueError: when that fails, naming ``setting`` as what to change.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))  # a full disk may still take an empty file
            file.flush()
    except OSError as error:
        problem = f'{setting} = {str(folder)!r} cannot be written ({error.strerror})'
        raise ValueError(f'{problem}: set it to another folder.') from error


def check_space(folder: Path, needed: int, setting: str) -> None:
    """Compare the free space of a folder that exists with what will be written there.

    Args:
        folder: on the disk in question.
        needed: bytes.
        setting: what to change, for the message.

    Raises:
        ValueError: when it is too small.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f'{setting} = {str(folder)!r} has {free / 2**20:.1f} MiB left, and a checkpoint and the archive need '
            f'{needed / 2**20:.1f} MiB: make room, or set {setting} to another folder.'
        )


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Let ``tempfile`` use a new folder in ``folder``, rather than that of ``TMPDIR``, which may be small or full."""
    folder.mkdir(parents=True, exist_ok=True)
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=folder, prefix='.temporary-') as own:
        tempfile.tempdir = own
        try:
            yield
        finally:
            tempfile.tempdir = before


def _name_beside(path: Path) -> Path:
    """Return a hidden name in the same folder that nothing has, with the same suffix: some formats are chosen by it."""
    return path.with_name(f'.{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}')


def _swap(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path`` and remove what stood there; put it back when that fails."""
    if not os.path.lexists(path):
        os.replace(new, path)
        return
    old = _name_beside(path)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink()


def _sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
