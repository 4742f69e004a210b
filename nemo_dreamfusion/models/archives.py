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


"""NeMo's registries and archives: what NeMo must know of this package, and errors that say what is wrong with a file.

A ``.nemo`` file is written at once or not at all, and holds ``SHA256SUMS`` of its other members (in the form of the
command ``sha256sum``), so that any damage is found. Archives without it, as NeMo itself writes them, are read too.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO

import nemo.core.classes.common as nemo_common
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from omegaconf import OmegaConf

from nemo_dreamfusion.export.atomic import atomic_path
from nemo_dreamfusion.models.optimizers import register_optimizers

SUMS = 'SHA256SUMS'
REQUIRED_MEMBERS = ('model_config.yaml', 'model_weights.ckpt')


def register_with_nemo() -> None:
    """Lets NeMo 3 restore this package's classes (it refuses every package that is not on its list); our optimizers."""
    register_optimizers()
    prefixes = getattr(nemo_common, 'ALLOWED_TARGET_PREFIXES', None)
    if prefixes is not None and 'nemo_dreamfusion.' not in prefixes:
        prefixes.append('nemo_dreamfusion.')


class SafeConnector(SaveRestoreConnector):
    """NeMo's writer of archives, with checksums and without half-written files."""

    @staticmethod
    def _make_nemo_file_from_folder(filename: str, source_dir: str) -> None:
        """Packs a folder; called by NeMo's ``save_to``."""
        files = sorted(path for path in Path(source_dir).rglob('*') if path.is_file())
        lines = [f'{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(source_dir)}\n' for path in files]
        (Path(source_dir) / SUMS).write_text(''.join(lines))
        with atomic_path(filename) as temporary, tarfile.open(temporary, 'w:') as tar:
            tar.add(source_dir, arcname='.')


def check_archive(path: str | Path) -> None:
    """Reads a ``.nemo`` file through without unpacking it.

    Raises:
        ValueError: when the file is missing, is no tar archive, is cut short or damaged, lacks the model, or holds a member
            whose path leads out of the archive, or one that is no plain file.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f'restore_from_path is {str(path)!r}, which does not exist: give the path of a .nemo file.')
    if path.is_dir():
        return
    try:
        with tarfile.open(path) as archive:
            members = {member.name.removeprefix('./'): member for member in archive.getmembers()}
            _check_members(path, members)
            _check_contents(path, archive, members)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} is not a readable .nemo archive ({error}): is it cut short, or something else?'
        ) from error


def _check_members(path: Path, members: Mapping[str, tarfile.TarInfo]) -> None:
    outside = [name for name in members if name.startswith('/') or '..' in Path(name).parts]
    if outside:
        raise ValueError(f'{path} is refused: its member {outside[0]!r} would be written outside of the archive.')
    special = [name for name, member in members.items() if not (member.isfile() or member.isdir())]
    if special:
        raise ValueError(f'{path} is refused: its member {special[0]!r} is a link or a device, not a file.')
    missing = [name for name in REQUIRED_MEMBERS if name not in members]
    if missing:
        raise ValueError(f'{path} holds no {" and no ".join(missing)}: it is not a NeMo model.')


def _check_contents(path: Path, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> None:
    sums = {}
    for name, member in members.items():
        if member.isfile():
            content = archive.extractfile(member).read()
            if len(content) != member.size:
                raise ValueError(f'{path} is cut short: it ends within {name}. Copy it again.')
            sums[name] = sha256(content).hexdigest()
    if SUMS not in members:
        _check_weights(path, archive.extractfile(members['model_weights.ckpt']))
        return
    written = dict(
        reversed(line.split('  ', 1)) for line in archive.extractfile(members[SUMS]).read().decode().splitlines()
    )
    del sums[SUMS]
    differing = [name for name in sorted(sums.keys() | written.keys()) if sums.get(name) != written.get(name)]
    if differing:
        raise ValueError(f'{path} is damaged: {differing[0]} is not what was written. Copy it again.')


def _check_weights(path: Path, file: IO[bytes]) -> None:
    """Compares the checksums within torch's own format (a zip file; the format before it has none)."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:
            broken = parts.testzip()
        if broken is not None:
            raise ValueError(f'{path} is damaged: the checksum of {broken} in its weights differs. Copy it again.')


def stored_config(path: str | Path) -> dict:
    """The configuration that a ``.nemo`` archive (or the folder of an unpacked one) was made with, plain containers."""
    path = Path(path)
    if path.is_dir():
        text = (path / 'model_config.yaml').read_text()
    else:
        with tarfile.open(path) as archive:
            (name,) = (m.name for m in archive.getmembers() if m.name.removeprefix('./') == 'model_config.yaml')
            text = archive.extractfile(name).read().decode()
    return OmegaConf.to_container(OmegaConf.create(text))


def check_same_parts(path: str | Path, asked: Mapping) -> None:
    """Refuses an archive that holds another field, background or renderer than a configuration asks for.

    Args:
        path: the archive.
        asked: the ``model`` node of the run that wants its weights.

    Raises:
        ValueError: naming the part, what the archive holds, and what was asked for.
    """
    held = stored_config(path)
    for part in ('nerf', 'background', 'renderer'):
        theirs, ours = (config.get(part, {}).get('_target_') for config in (held, asked))
        if theirs != ours:
            raise ValueError(
                f'{path} holds model.{part} = {_short(theirs)}, and this run asks for {_short(ours)}: '
                f'set model/{part} to the choice that the archive was made with.'
            )


def _short(target: str | None) -> str:
    return 'nothing' if target is None else target.rpartition('.')[2]


def restore_safely(restore: Callable, cls: type, restore_path: str, *args, **kwargs):
    """Runs NeMo's ``restore_from`` and cleans up after a failure.

    NeMo keeps its «a model is being restored» flag set when a restore fails, and later models then skip their set-up.

    Raises:
        ValueError: for an archive that is damaged, or made with other back ends than its configuration says.
    """
    check_archive(restore_path)
    try:
        return restore(restore_path, *args, **kwargs)
    except ValueError:
        raise
    except Exception as error:  # an archive of any origin: what is wrong in it shows in the most various ways
        if 'state_dict' not in str(error):
            reason = str(error).strip().splitlines() or ['']
            raise ValueError(f'{restore_path} cannot be restored: {type(error).__name__}: {reason[0]}') from error
        raise ValueError(
            f'{restore_path} holds other weights than its configuration builds: the model back end (model.nerf, '
            f'model.background or model.renderer) differs from the one that it was trained with.\n{error}'
        ) from error
    finally:
        cls._set_model_restore_state(is_being_restored=False)
