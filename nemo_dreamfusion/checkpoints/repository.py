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

"""The files of a model in diffusers' format: a folder of this machine, or a repository of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer

_PATIENCE = 20.0  # seconds for the hub's first answer


class Repository:
    """Files by their path inside a folder or a hub repository; of the hub only what is asked for is downloaded.

    Args:
        name: a local folder, or a hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        revision: branch, tag or commit of the hub repository.
        local_files_only: read the hub's cache only.
        advice: a sentence for the end of a message: what to set to choose another model.
    """

    def __init__(
        self, name: str, *, revision: str | None = None, local_files_only: bool = False, advice: str = ''
    ) -> None:
        self.name, self.advice = name, advice
        self._hub: dict[str, Any] = {'revision': revision, 'local_files_only': local_files_only}

    tokenizer_source: str | None = None  # where its tokenizer is, if not among its files

    @property
    def is_local(self) -> bool:
        """Return whether it is a folder of this machine."""
        return Path(self.name).is_dir()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the paths of its files; of a repository whose hub does not answer, those in the cache."""
        if self.is_local:
            return _names_in(Path(self.name))
        from huggingface_hub import HfApi

        refused: Exception | None = None
        if not self._hub['local_files_only']:
            try:
                found = HfApi().model_info(self.name, revision=self._hub['revision'], timeout=_PATIENCE)
                return tuple(file.rfilename for file in found.siblings or ())
            except Exception as error:  # no network, no such repository, HF_HUB_OFFLINE: the cache may hold it
                refused = error
                self._hub['local_files_only'] = True  # each further question would wait for the hub again
        try:
            return _names_in(self._download(['model_index.json']))
        except ValueError:
            if refused is None:
                raise
            raise self._not_given(refused) from refused

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the folder that holds these files, downloaded where they are not there yet.

        Raises:
            ValueError: when the hub and its cache do not give them, or when one is a Git LFS pointer.
        """
        names = list(names)
        folder = Path(self.name) if self.is_local else self._download(names)
        for name in names:
            refuse_lfs_pointer(folder / name)
        return folder

    @cached_property
    def _small_files(self) -> Path:
        """Return the folder with all configurations and the tokenizer, which of a hub repository are downloaded at once."""
        return self.fetch(name for name in self.names if name.endswith(('.json', '.txt')))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file; empty where there is no such file.

        Raises:
            ValueError: when it is not a mapping in JSON.
        """
        if name not in self.names:
            return {}
        try:
            content = json.loads((self._small_files / name).read_text(encoding='utf-8'))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f'Cannot read {name} of {self.name!r} ({first_line(error)}). {self.advice}') from error
        if not isinstance(content, dict):
            raise ValueError(f'{name} of {self.name!r} is not a mapping in JSON. {self.advice}')
        return content

    def load(self, names: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the tensors of each of some safetensors files.

        Raises:
            ValueError: when one is damaged, or a Git LFS pointer.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder, found = self.fetch(names), []
        for name in names:
            try:
                found.append(load_file(folder / name))
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f'{name} of {self.name!r} is damaged or cut short ({error}): download it again. {self.advice}'
                ) from error
        return found

    def is_open_clip(self, part: str) -> bool:
        """Return whether a text encoder is known for OpenCLIP's, whose texts are padded with the token 0."""
        return self.read_json(f'{part}/config.json').get('hidden_act') == 'gelu'

    def name_of(self, part: str) -> str:
        """Return where a part comes from, for messages."""
        return self.name

    def identity(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return what tells files of a folder from others: their sizes and times."""
        stats = {name: (Path(self.name) / name).stat() for name in names}
        return {name: [found.st_size, found.st_mtime_ns] for name, found in stats.items()}

    def _download(self, names: list[str]) -> Path:
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.name, allow_patterns=names, **self._hub))
        except Exception as error:  # of the hub, the network or the disk
            raise self._not_given(error) from error

    def _not_given(self, error: Exception) -> ValueError:
        reason = first_line(error)
        return ValueError(
            f'Cannot read {self.name!r}: the hub or its cache does not give it ({reason}). {self.advice}'
        )


def _names_in(folder: Path) -> tuple[str, ...]:
    """Return the files of a folder and of the folders in it, which is as deep as diffusers' format goes."""
    files = [path for pattern in ('*', '*/*') for path in folder.glob(pattern) if path.is_file()]
    return tuple(sorted(path.relative_to(folder).as_posix() for path in files))
