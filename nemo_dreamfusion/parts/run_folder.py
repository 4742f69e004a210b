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


"""The folder of one run: its name, and whether it may be written and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

# Keys that may change between two runs of the same object: they say how long, how much is shown, and where it runs.
MAY_CHANGE = ('model.iters', 'model.guidance.source', 'model.guidance.checkpoint', 'model.guidance.plan_dir')
# Settings of the trainer that change the result.
OF_THE_TRAINER = ('trainer.precision', 'trainer.gradient_clip_val', 'trainer.accumulate_grad_batches')


def run_name(prompt: str, texts: Mapping[str, str]) -> str:
    """A folder name for a prompt of any length: its first words and a hash of all ``texts``.

    ``run_name('a DSLR photo of a hamburger', {...})`` gives something like ``a-dslr-photo-of-a-hamburger-1f0c2a9b``.
    """
    slug = re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:48].strip('-') or 'object'
    joined = '\x00'.join(f'{key}={texts[key]}' for key in sorted(texts))
    return f'{slug}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}'


def check_writable(folder: Path, setting: str) -> None:
    """Makes the folder and tries to write in it.

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


def flat(config: Mapping, prefix: str = '') -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every leaf of nested mappings."""
    for key, value in config.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            yield from flat(value, name + '.')
        else:
            yield name, value


def check_same_object(folder: Path, before: Mapping, now: Mapping) -> None:
    """Refuses to go on with a run that was made with another configuration.

    Args:
        folder: the run's folder, for the message.
        before: the nodes ``model`` and ``trainer`` that the folder was made with.
        now: those of this run.

    Raises:
        ValueError: listing what differs.
    """
    old, new = dict(flat(before)), dict(flat(now))
    keys = sorted(key for key in old.keys() | new.keys() if key.startswith('model.') or key in OF_THE_TRAINER)
    changed = [key for key in keys if old.get(key) != new.get(key) and key not in MAY_CHANGE]
    if changed:
        rows = '; '.join(f'{key}: {old.get(key)!r} then, {new.get(key)!r} now' for key in changed[:8])
        raise ValueError(
            f'{folder} holds a run with other settings ({rows}). Set exp_manager.exp_dir to another folder, set the values '
            'back, or delete that folder.'
        )


def is_finished(folder: Path, steps: int) -> bool:
    """Whether a run of at least so many steps left its archive and its metrics in the folder."""
    try:
        done = json.loads((folder / 'metrics.json').read_text())['steps']
    except (OSError, ValueError, KeyError):
        return False
    return (folder / 'DreamFusion.nemo').is_file() and done >= steps


def config_of_run(folder: Path) -> dict | None:
    """The configuration that a folder's run was made with; None when it holds no run.

    NeMo moves the files of a resumed run to ``run_0``, ``run_1``, ...: a run that was killed just then has its
    ``config.yaml`` there.

    Raises:
        ValueError: when the file is damaged.
    """
    moved = sorted(folder.glob('run_*/config.yaml'), key=lambda path: path.stat().st_mtime, reverse=True)
    path = next((path for path in (folder / 'config.yaml', *moved) if path.is_file()), None)
    if path is None:
        return None
    try:
        config = yaml.safe_load(path.read_text())
        if isinstance(config['model'], dict) and isinstance(config['trainer'], dict):
            return config
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        pass
    raise ValueError(f'{path} is damaged: it is no configuration of a run. Delete it to go on without this check.')


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file under a temporary name, then renames it."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    with temporary.open('w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
