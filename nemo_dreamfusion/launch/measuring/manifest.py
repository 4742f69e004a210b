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

"""The folder of a stage: what is finished in it, and the manifest that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_dreamfusion.launch.benchmarking.machine import describe_versions
from nemo_dreamfusion.launch.measuring.runs import FinishedRun
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import write_atomically

MANIFEST = 'manifest.json'


@dataclass(frozen=True)
class Shard:
    """The part of a list that one machine works at: every ``count``-th item, from the ``index``-th on (from 1)."""

    index: int = 1
    count: int = 1

    def part(self, items: Sequence[Any]) -> list[Any]:
        """Return the items of this part.

        >>> Shard(2, 3).part('abcde')
        ['b', 'e']
        """
        return list(items[self.index - 1 :: self.count])


def read_shard(value: Any) -> Shard:
    """Read ``shard=i/n``; None is the whole.

    >>> read_shard('2/4')
    Shard(index=2, count=4)
    """
    if value is None:
        return Shard()
    index, slash, count = str(value).partition('/')
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        refuse('shard', value, 'i/n with i from 1 to n', 'Set shard=1/4 to shard=4/4 on four machines.')
    return Shard(int(index), int(count))


@dataclass(frozen=True)
class Manifest:
    """How a stage's folder was made, and of which objects."""

    path: Path
    settings: dict[str, Any]
    runs: tuple[FinishedRun, ...]

    def check(self, *, whole: bool) -> None:
        """Compare it with what the folder has already.

        Args:
            whole: whether this machine works at all objects; otherwise all machines must name the same ones.

        Raises:
            ValueError: when the folder was begun with other settings, or other objects.
        """
        earlier = read_manifest(self.path.parent)
        if earlier is None:
            return
        ours = json.loads(json.dumps(self.settings))
        for key in sorted(ours.keys() | earlier.settings.keys()):
            if ours.get(key) != earlier.settings.get(key):
                raise ValueError(
                    f'{self.path.parent} was begun with {key} = {earlier.settings.get(key)!r}, and this call has '
                    f'{ours.get(key)!r}: set out to another folder, or remove that one{_rename(key)}.'
                )
        if not whole and [run.name for run in self.runs] != [run.name for run in earlier.runs]:
            raise ValueError(
                f'{self.path.parent} was begun with {len(earlier.runs)} objects, and this call has {len(self.runs)}, or '
                f'others: with shard each machine must name the same runs. To begin another list remove {self.path}; what '
                'is finished stays.'
            )

    def write(self) -> None:
        """Keep it beside what was made, with the objects of earlier calls."""
        earlier = read_manifest(self.path.parent)
        runs = {run.name: run for run in (*(earlier.runs if earlier else ()), *self.runs)}
        record = {
            'settings': self.settings,
            'objects': {run.name: {'prompt': run.prompt, 'sha256': run.sha256} for _, run in sorted(runs.items())},
            'versions': describe_versions(('torch', 'transformers')),
        }
        write_atomically(self.path, json.dumps(record, indent=2, ensure_ascii=False) + '\n')


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a stage's folder; None where there is none.

    Raises:
        ValueError: when it is damaged.
    """
    path = folder / MANIFEST
    record = read_record(path)
    if record is None:
        return None
    try:
        runs = [FinishedRun(name, one['prompt'], one['sha256']) for name, one in record['objects'].items()]
        return Manifest(path, record['settings'], tuple(runs))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is no manifest of a stage: remove it, or set out to another folder.') from error


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a mapping that was written as JSON; None where there is no file.

    Raises:
        ValueError: when it is damaged.
    """
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read ({error}): remove it, and the same command makes it anew.') from error
    if not isinstance(record, Mapping):
        raise ValueError(f'{path} is no record of ours: remove it, and the same command makes it anew.')
    return dict(record)


def _rename(key: str) -> str:
    return ', or set metric.encoder.name' if key.endswith('sha256') and key != 'candidates_sha256' else ''
