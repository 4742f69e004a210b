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

"""A NeMo ``.nemo`` file of a Stable Diffusion: a tar of ``model_config.yaml`` and ``model_weights.ckpt``, read safely.

Nothing is unpacked to disk and no pickled code is run: the weights are read through torch's restricted unpickler.
"""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
import yaml
from torch import Tensor

from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.files import atomic_path
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer

CONFIG = 'model_config.yaml'
WEIGHTS = 'model_weights.ckpt'
_LARGEST_SMALL_FILE = 64 * 2**20  # bytes; what is read beside the weights


@dataclass(frozen=True)
class NemoArchive:
    """What an archive holds: its configuration, its tensors and its other files."""

    path: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    files: dict[str, bytes] = field(default_factory=dict)  # the other members, by their path inside


def read_archive(path: str | Path, *, weights: bool = True) -> NemoArchive:
    """Read a ``.nemo`` file; ValueError with the reason when it is missing, damaged or unsafe.

    Args:
        path: the archive.
        weights: False leaves the tensors out (``state`` is empty), which is quick.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f'{str(path)!r}: there is no such file. Give the path of a .nemo archive.')
    refuse_lfs_pointer(path)
    try:
        with tarfile.open(path, 'r:*') as archive:
            members = {_safe_name(member, path): member for member in archive.getmembers() if not member.isdir()}
            for name in (CONFIG, WEIGHTS):
                if name not in members:
                    raise ValueError(f'{str(path)!r} is not a NeMo archive: it holds no {name}.')
            config = _config(_content(archive, members.pop(CONFIG)), path)
            member = members.pop(WEIGHTS)
            files = {name: _content(archive, other) for name, other in members.items()}
            state = _weights(archive, member, path) if weights else {}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f'{str(path)!r} cannot be read as a .nemo archive, it is damaged or cut short ({error}).'
        ) from error
    return NemoArchive(str(path), config, state, files)


def _safe_name(member: tarfile.TarInfo, path: Path) -> str:
    """Return the member's path; ValueError for one that would leave the archive's folder or is not a plain file."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or '..' in name.parts:
        raise ValueError(f'{str(path)!r} is refused: its member {member.name!r} points outside of the archive.')
    if not (member.isfile() or member.isdir()):
        raise ValueError(f'{str(path)!r} is refused: its member {member.name!r} is a link or a device, not a file.')
    return str(name)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST_SMALL_FILE:
        return b''  # nothing that is read here is that large
    content = _open_member(archive, member).read()
    if len(content) != member.size:
        raise EOFError(f'{member.name} ends early')
    return content


def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None  # members that are no plain files were refused
    return file


def _config(text: bytes, path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{CONFIG} of {str(path)!r} is not plain YAML ({first_line(error)}).') from error
    if not isinstance(config, dict):
        raise ValueError(f'{CONFIG} of {str(path)!r} is empty or not a mapping.')
    return config


def _weights(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(
            [io.BytesIO]
        ):  # the _extra_state of Transformer Engine, which is left out
            loaded = torch.load(_open_member(archive, member), map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{WEIGHTS} of {str(path)!r} is refused: it holds pickled code or is damaged; only plain tensors are read.'
        ) from error
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f'{WEIGHTS} of {str(path)!r} is damaged or cut short ({first_line(error)}).') from error
    state = loaded.get('state_dict', loaded) if isinstance(loaded, Mapping) else None
    if state is None:
        raise ValueError(f'{WEIGHTS} of {str(path)!r} is not a dictionary of tensors.')
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def write_archive(
    path: str | Path, config: Mapping[str, Any], state: Mapping[str, Tensor], files: Mapping[str, bytes]
) -> None:
    """Write a ``.nemo`` file as NeMo does (an uncompressed tar), at once or not at all."""
    path = Path(path).expanduser()
    with atomic_path(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as weights:
        with tarfile.open(temporary, 'w:') as archive:
            _add(archive, CONFIG, io.BytesIO(yaml.safe_dump(dict(config)).encode()))
            for name, content in sorted(files.items()):
                _add(archive, name, io.BytesIO(content))
            torch.save({key: value.contiguous() for key, value in state.items()}, weights)
            _add(archive, WEIGHTS, weights)


def _add(archive: tarfile.TarFile, name: str, content: Any) -> None:
    member = tarfile.TarInfo(f'./{name}')
    member.size = content.seek(0, os.SEEK_END)
    content.seek(0)
    archive.addfile(member, content)
