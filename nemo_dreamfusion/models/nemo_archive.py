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


"""``.nemo`` archives: registration with NeMo, safe writing, and errors that say what is wrong with a file.

A ``.nemo`` file is written whole or not at all. It holds the checksums of its other members as ``SHA256SUMS`` (the format
of the command ``sha256sum``), so that any damage is found. Archives without them, as NeMo itself writes, are read too.
"""

from __future__ import annotations

import io
import logging
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Container, Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, TypeVar

import nemo.core.classes.common as nemo_common
import torch
from nemo.core.classes import ModelPT
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from nemo.utils import logging as nemo_logging
from nemo.utils.get_rank import is_global_rank_zero
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from nemo_dreamfusion.models.optimizers import register_optimizers
from nemo_dreamfusion.models.options import check_node
from nemo_dreamfusion.modules.guidance.old_options import rename_old_options
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.files import atomic_path, temporary_files_in
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer
from nemo_dreamfusion.parts.texts import keep_texts_literal

SUMS = 'SHA256SUMS'
ORIGIN = 'Give a .nemo file that save_to has written.'
REQUIRED_MEMBERS = ('model_config.yaml', 'model_weights.ckpt')
OLD_OPTIONS = (  # (part, option) of older archives that change no result
    ('renderer', 'rays_per_chunk'),  # now samples_per_chunk
)
Model = TypeVar('Model')


def register_with_nemo() -> None:
    """Add our optimizers to NeMo, and this package to the list of those whose classes NeMo 3 restores."""
    register_optimizers()
    prefixes = getattr(nemo_common, 'ALLOWED_TARGET_PREFIXES', None)
    if prefixes is not None and 'nemo_dreamfusion.' not in prefixes:
        prefixes.append('nemo_dreamfusion.')


class SafeConnector(SaveRestoreConnector):
    """Write NeMo's archives with checksums, and whole or not at all."""

    def save_to(self, model: ModelPT, save_path: str) -> None:
        """Write an archive as NeMo does, with what it collects beside the archive rather than in ``TMPDIR``."""
        if is_global_rank_zero():
            with temporary_files_in(Path(save_path).resolve().parent):
                super().save_to(model, save_path)

    @staticmethod
    def _save_state_dict_to_disk(state_dict: Mapping[str, Any], filepath: str) -> None:
        """Write the weights; a full disk is an OSError, where torch would raise a RuntimeError of its own."""
        buffer = io.BytesIO()
        torch.save(state_dict, buffer)
        Path(filepath).write_bytes(buffer.getbuffer())

    @staticmethod
    def _make_nemo_file_from_folder(filename: str, source_dir: str) -> None:
        """Pack a folder; NeMo's ``save_to`` calls this."""
        files = sorted(path for path in Path(source_dir).rglob('*') if path.is_file())
        lines = [f'{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(source_dir)}\n' for path in files]
        (Path(source_dir) / SUMS).write_text(''.join(lines), encoding='utf-8')
        with atomic_path(filename) as temporary, tarfile.open(temporary, 'w:') as tar:
            tar.add(source_dir, arcname='.')


def check_archive(path: str | Path) -> None:
    """Read a ``.nemo`` file through without unpacking it.

    Raises:
        ValueError: when the file is missing, is no tar archive, is cut short or damaged, lacks the model, or holds a member
            whose path leads out of the archive, or one that is no plain file.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f'restore_from_path = {str(path)!r} does not exist: give the path of a .nemo file.')
    for file in (path, *(path / name for name in REQUIRED_MEMBERS)):
        refuse_lfs_pointer(file)
    if path.is_dir():  # an archive that was unpacked
        _check_complete(path, {member.name for member in path.iterdir() if member.is_file()})
        return
    if '.ckpt' in path.suffixes:
        raise ValueError(
            f'{path} is a checkpoint of a run, not a finished object: the command that began the run goes on from it by '
            'itself (exp_manager.resume_if_exists=true); a finished object is the DreamFusion.nemo in the folder of its run.'
        )
    try:
        with tarfile.open(path) as archive:
            members = {member.name.removeprefix('./'): member for member in archive.getmembers()}
            _check_members(path, members)
            _check_contents(path, archive, members)
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} is not a readable .nemo archive ({first_line(error)}). Copy it again, or give another .nemo file.'
        ) from error


def _check_members(path: Path, members: Mapping[str, tarfile.TarInfo]) -> None:
    outside = [name for name in members if name.startswith('/') or '..' in Path(name).parts]
    if outside:
        raise ValueError(f'{path} is refused: its member {outside[0]!r} would be written outside of it. {ORIGIN}')
    special = [name for name, member in members.items() if not (member.isfile() or member.isdir())]
    if special:
        raise ValueError(f'{path} is refused: its member {special[0]!r} is a link or a device, not a file. {ORIGIN}')
    _check_complete(path, members)


def _check_complete(path: Path, names: Container[str]) -> None:
    missing = [name for name in REQUIRED_MEMBERS if name not in names]
    if missing:
        raise ValueError(f'{path} holds no {" and no ".join(missing)}: it is not a NeMo model. {ORIGIN}')


def _check_contents(path: Path, archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> None:
    sums = {}
    for name, member in members.items():
        if member.isfile():
            content = _open(archive, member).read()
            if len(content) != member.size:
                raise ValueError(f'{path} is cut short: it ends within {name}. Copy it again.')
            sums[name] = sha256(content).hexdigest()
    if SUMS not in members:
        _check_weights(path, _open(archive, members['model_weights.ckpt']))
        return
    lines = (line.partition('  ') for line in _open(archive, members[SUMS]).read().decode().splitlines())
    written = {name: checksum for checksum, _, name in lines}
    del sums[SUMS]
    differing = [name for name in sorted(sums.keys() | written.keys()) if sums.get(name) != written.get(name)]
    if differing:
        raise ValueError(f'{path} is damaged: {differing[0]} is not what was written. Copy it again.')


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None, f'{member.name} is no plain file'  # _check_members refuses all others
    return file


def _check_weights(path: Path, file: IO[bytes]) -> None:
    """Compare the checksums within torch's own format (a zip file; the format before it has none)."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:
            broken = parts.testzip()
        if broken is not None:
            raise ValueError(f'{path} is damaged: the checksum of {broken} in its weights differs. Copy it again.')


def stored_config(path: str | Path) -> dict[str, Any]:
    """Return the configuration that a ``.nemo`` archive, or the folder of an unpacked one, was made with."""
    path = Path(path)
    if path.is_dir():
        text = (path / 'model_config.yaml').read_text(encoding='utf-8')
    else:
        with tarfile.open(path) as archive:
            (name,) = (m.name for m in archive.getmembers() if m.name.removeprefix('./') == 'model_config.yaml')
            text = _open(archive, archive.getmember(name)).read().decode()
    return to_plain(OmegaConf.create(text), resolve=False)


def to_plain(config: DictConfig | ListConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Return a configuration node, which is a mapping, as plain containers."""
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check_same_parts(path: str | Path, asked: Mapping, parts: Sequence[str]) -> None:
    """Refuse an archive that holds another field, background or renderer than a configuration asks for.

    Args:
        path: the archive.
        asked: the ``model`` node of the run that wants its weights.
        parts: whose weights it wants.

    Raises:
        ValueError: naming the part, what the archive holds, and what was asked for.
    """
    held = stored_config(path)
    for part in parts:
        theirs, ours = (config.get(part, {}).get('_target_') for config in (held, asked))
        if theirs != ours:
            raise ValueError(
                f'restore_from_path = {path} holds model.{part} = {_short(theirs)}, and this run asks for {_short(ours)}: '
                f'set model/{part} to the choice that the archive was made with.'
            )


def _short(target: str | None) -> str:
    return 'nothing' if target is None else target.rpartition('.')[2]


def drop_old_options(config: DictConfig) -> None:
    """Give the options of older releases in a stored ``model`` node their new names; remove those without one."""
    rename_old_options(config)
    with open_dict(config):
        for part, option in OLD_OPTIONS:
            if OmegaConf.is_dict(config.get(part)):
                config[part].pop(option, None)


def restore_safely(
    restore: Callable[..., Model], cls: type[ModelPT], restore_path: str, *args: Any, **kwargs: Any
) -> Model:
    """Run NeMo's ``restore_from`` on an archive or the folder of an unpacked one, and clean up after a failure.

    When a restore fails, NeMo leaves its flag "a model is being restored" set, so that later models skip their set-up,
    and logs the stack of the error that is raised here.

    Raises:
        ValueError: for an archive that is damaged, or made with other back ends than its configuration says.
    """
    check_archive(restore_path)
    if (override := args[0] if args else kwargs.get('override_config_path')) is not None:
        check_node(_model_of(override))
    if Path(restore_path).is_dir() and 'save_restore_connector' not in kwargs:
        kwargs['save_restore_connector'] = SafeConnector()
        kwargs['save_restore_connector'].model_extracted_dir = str(Path(restore_path).resolve())
    try:
        with nemo_logging.temp_verbosity(logging.CRITICAL):
            return restore(restore_path, *args, **kwargs)
    except ValueError as error:
        raise ValueError(f'{restore_path} cannot be restored: {error}') from error
    except Exception as error:  # a broken archive may raise anything
        if 'state_dict' not in str(error):
            reason = f'{type(error).__name__}: {first_line(error)}'
            raise ValueError(f'{restore_path} cannot be restored: {reason}. {ORIGIN}') from error
        raise ValueError(
            f'{restore_path} holds other weights than its configuration builds: the model back end (model.nerf, '
            f'model.background or model.renderer) differs from the one that it was trained with.\n{error}'
        ) from error
    finally:
        cls._set_model_restore_state(is_being_restored=False)


def _model_of(override: DictConfig | str | Path) -> dict[str, Any]:
    """Return the ``model`` node of what takes the place of an archive's configuration: a node, or a whole configuration."""
    is_node = isinstance(override, DictConfig | ListConfig)
    config = deepcopy(override) if is_node else OmegaConf.load(Path(str(override)).expanduser())
    model = config.get('model', config) if isinstance(config, DictConfig) else config
    if not isinstance(model, DictConfig):
        raise ValueError(
            f'override_config_path = {override!r} holds no model: give the model node of a configuration.'
        )
    keep_texts_literal(model)
    return to_plain(model)


def fetch_safely(fetch: Callable[..., Model], name: str, *args: Any, **kwargs: Any) -> Model:
    """Run NeMo's ``from_pretrained``, with one clear error when the hub does not answer or has no such object.

    Raises:
        ValueError: when a name with a slash, which NeMo takes for a place on the Hugging Face Hub, gives no object.
    """
    try:
        return fetch(name, *args, **kwargs)
    except Exception as error:  # network, HTTP and hub client each have errors of their own
        if '/' not in name or isinstance(error, ValueError):
            raise
        raise ValueError(
            f'{name!r} cannot be fetched from the Hugging Face Hub ({type(error).__name__}: {first_line(error)}). '
            'Download the .nemo file where there is a network, and give its path to restore_from.'
        ) from error
