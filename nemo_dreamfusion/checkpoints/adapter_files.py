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

"""Small files that are added to a diffusion model, a LoRA or a textual inversion: safetensors, anything else is refused."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from nemo_dreamfusion.checkpoints.file_kinds import describe_contents
from nemo_dreamfusion.checkpoints.weight_files import PICKLED
from nemo_dreamfusion.parts.checks import check_keys, first_line, refuse
from nemo_dreamfusion.parts.git_lfs import is_lfs_pointer

_PICKLE_STARTS = (b'PK\x03\x04', b'\x80')  # of torch.save's zip file and of a bare pickle


def check_entries(
    setting: str, given: Any, required: Sequence[str], optional: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return a list of mappings with these keys, each with ``setting``, where it stands; no file is looked at.

    Args:
        setting: where the list stands.
        given: the list; None is an empty one, a text the value of the only key that is required.
        required: keys that each must have.
        optional: keys that each may have.

    Raises:
        ValueError: for anything else, an unknown key, a key that lacks and a path that is no text.
    """
    example = f'Set {setting}=[{{{", ".join(f"{key}: …" for key in (*required, *optional))}}}].'
    if given is None:
        return []
    if isinstance(given, str) and given.strip() and len(required) == 1:
        given = [{required[0]: given}]
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(x, Mapping) for x in given):
        refuse(setting, given, 'null or a list of mappings', example)
    entries = []
    for i, entry in enumerate(given):
        place = f'{setting}[{i}]'
        check_keys(place, entry, (*required, *optional))
        for key in required:
            if not isinstance(entry.get(key), str) or not entry[key].strip():
                refuse(f'{place}.{key}', entry.get(key), 'text', example)
        entries.append({**entry, 'setting': place})
    return entries


@dataclass(frozen=True)
class AdapterFile:
    """A safetensors file that is added to a model.

    path: where it is.
    setting: which setting names it, such as ``model.guidance.lora[0]``.
    wanted: what it must be, for messages.
    """

    path: str
    setting: str
    wanted: str

    @property
    def file(self) -> Path:
        """The path with the home folder in the place of ``~``."""
        return Path(self.path).expanduser()

    def refuse(self, problem: str, advice: str = '') -> NoReturn:
        """Raise the ValueError that says what it must be and why it is not."""
        refuse(f'{self.setting}.path', self.path, f'{self.wanted}; {problem}', advice)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor by its name; only the header is read.

        Raises:
            ValueError: for a file that is not there, is empty, cut short, pickled, a Git LFS pointer, or no safetensors.
        """
        self._check()
        with self._open() as opened:
            found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
        if not found:
            self.refuse('it holds no tensors')
        return found

    def metadata(self) -> dict[str, str]:
        """Return the texts in the header; empty where it has none."""
        with self._open() as opened:
            return opened.metadata() or {}

    def tensors(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return tensors by their names, all where no names are given: float32, on the CPU.

        Raises:
            ValueError: for one that holds a number that is none.
        """
        with self._open() as opened:
            found = {name: opened.get_tensor(name).float() for name in names or list(opened.keys())}
        for name, value in found.items():
            if not bool(torch.isfinite(value).all()):
                self.refuse(f'its {name} holds numbers that are not finite')
        return found

    def identity(self) -> list[Any]:
        """Return what tells the file from others, as plain data."""
        found = self.file.stat()
        return [str(self.file.resolve()), found.st_size, found.st_mtime_ns]

    def contents(self) -> str | None:
        """Return what the file is, by the names of its tensors; None where these say nothing."""
        return describe_contents(self.file)

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.file, framework='pt')
        except (SafetensorError, OSError) as error:
            self.refuse(f'it is damaged or cut short ({first_line(error)}): download it again')

    def _check(self) -> None:
        file = self.file
        if file.is_dir():
            inside = sorted(file.glob('*.safetensors'))
            advice = f'Set {self.setting}.path={inside[0]}.' if inside else ''
            self.refuse('this is a folder', advice)
        if not file.is_file():
            self.refuse('there is no such file, and none is downloaded')
        if is_lfs_pointer(file):
            fetch = f'git -C {shlex.quote(str(file.parent))} lfs pull'
            self.refuse('this is a Git LFS pointer and not the file itself', f'Install Git LFS and run: {fetch}')
        if file.stat().st_size == 0:
            self.refuse('this file is empty: download it again')
        with file.open('rb') as opened:
            start = opened.read(9)
        is_safetensors = start[8:] == b'{'  # behind the length of the header, which may begin like a pickle
        if file.suffix in PICKLED or (start.startswith(_PICKLE_STARTS) and not is_safetensors):
            self.refuse('this file is pickled, and pickled files are not read', 'Take the .safetensors of it.')


def read_json_entry(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """Return a JSON object out of a header; empty where there is none, or no object."""
    try:
        found = json.loads(metadata.get(key, '{}'))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
