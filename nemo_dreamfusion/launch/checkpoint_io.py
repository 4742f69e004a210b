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

"""Write checkpoints whole or not at all, read them without running code, and find the newest good one of a folder."""

from __future__ import annotations

import io
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.safe_load import read_checkpoint

logger = logging.getLogger('nemo_dreamfusion.launch.checkpoint_io')

LAST = '-last.ckpt'  # NeMo resumes from the one file of this ending
PREVIOUS = '.previous'  # added to the name of the one before it
OF_SLURM = 'hpc_ckpt_'  # begins the name of what Lightning saves on SIGUSR1, beside the folder of checkpoints
DAMAGED = '.damaged'  # added to the name of one that cannot be read


class CheckpointNotWritten(OSError):
    """The disk is full, the folder may not be written, or the like; what was saved before is untouched."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Write under a temporary name, sync, rename; read plain data only (``weights_only``); keep the one before.

    What Lightning saves when Slurm warns of the end of a job is also written to the folder of checkpoints, which is where
    the same command looks. Where NeMo removes the last checkpoint after it has written a newer one, the removed one is kept
    as ``<name>.ckpt.previous``, so that there is always a second one to go back to.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; a file that stands there is replaced in one step.

        Raises:
            CheckpointNotWritten: with the reason; whatever stood at ``path`` stands there still.
        """
        if Path(path).name.startswith(OF_SLURM):  # a second one where resuming looks, first: Slurm may kill any time
            name = f'DreamFusion--slurm-step={checkpoint["global_step"]}{LAST}'
            self.save_checkpoint(checkpoint, Path(path).parent / 'checkpoints' / name)
        try:
            with atomic_path(path) as temporary:
                # torch.save into a file that fills up can end the process, a file of our own raises
                with temporary.open('wb') as file:
                    file.write(_serialize(checkpoint))
        except OSError as error:
            raise CheckpointNotWritten(
                error.errno,
                f'The checkpoint {path} could not be written ({error.strerror}). The ones before it are untouched: '
                'make room, or make the folder writable, and the same command goes on from there',
            ) from error

    def load_checkpoint(self, path: str | Path, map_location: Any = lambda storage, place: storage) -> dict[str, Any]:
        """Return what :func:`read_checkpoint` does."""
        return read_checkpoint(path, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint; one that was the last until now becomes the previous one instead."""
        path = Path(path)
        if path.name.endswith(LAST) and path.is_file():
            _keep_as_previous(path)
        else:
            super().remove_checkpoint(path)


def _serialize(checkpoint: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getbuffer()


def prepare_resume(folder: Path) -> Path | None:
    """Make a folder of checkpoints ready to be resumed from, whatever ended the run before.

    Removes what an interrupted write left, sets damaged checkpoints aside with a warning, and leaves the newest good one
    as the only ``*-last.ckpt``, which is where NeMo's exp_manager resumes.

    Args:
        folder: ``checkpoints`` of a run; it need not exist.

    Returns:
        The checkpoint to resume from; None when there is none.
    """
    if not folder.is_dir():
        return None
    for left in (
        *folder.glob('.*.ckpt'),
        *folder.glob('*-unfinished'),
    ):  # writes are atomic: NeMo's marker says nothing
        left.unlink()
    found = _newest_first(folder)
    for number, path in enumerate(found):
        try:
            read_checkpoint(path)
        except ValueError as error:
            os.replace(path, path.with_name(path.name + DAMAGED))
            logger.warning('%s It was set aside as %s; the one before it is used.', error, path.name + DAMAGED)
            continue
        for older in reversed(found[number + 1 :]):
            if older.name.endswith(LAST):
                _keep_as_previous(older)
        if path.name.endswith(PREVIOUS):
            restored = path.with_name(path.name.removesuffix(PREVIOUS))
            os.replace(path, restored)
            return restored
        return path
    return None


def newest_good(folder: Path) -> Path | None:
    """Return what :func:`prepare_resume` does, whether another process has done it, is doing it, or has not begun.

    Changes nothing: of several ranks one prepares it, and the others may look at any moment.
    """
    for path in _newest_first(folder):
        try:
            read_checkpoint(path)
        except ValueError:
            if not path.exists():  # it has just been renamed
                return newest_good(folder)
            continue
        return path.with_name(path.name.removesuffix(PREVIOUS))
    return None


def _newest_first(folder: Path) -> list[Path]:
    """List what can be resumed from, in one look at the folder: two looks would miss one renamed between them."""
    names = os.listdir(folder) if folder.is_dir() else []
    found = [folder / name for name in names if re.fullmatch(rf'[^.].*\.ckpt({re.escape(PREVIOUS)})?', name)]
    try:
        return sorted(found, key=_age, reverse=True)
    except FileNotFoundError:  # one has just been renamed
        return _newest_first(folder)


def _age(path: Path) -> tuple[int, int, float]:
    """Return a key that sorts by the step in the name, then the last after others of the same step, then by time."""
    step = re.search(r'step=(\d+)', path.name)
    return int(step.group(1)) if step else -1, path.name.endswith(LAST), path.stat().st_mtime


def _keep_as_previous(path: Path) -> None:
    """Rename a checkpoint to ``*.previous``, then remove the previous ones before it."""
    kept = path.with_name(path.name + PREVIOUS)
    os.replace(path, kept)
    for older in path.parent.glob(f'*{PREVIOUS}'):
        if older != kept:
            older.unlink()
