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

"""A model with the UNet of another place: a finetuned one over the VAE and the text encoder that it was trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_dreamfusion.checkpoints import file_kinds, nemo_keys
from nemo_dreamfusion.checkpoints.latent_diffusion import under_new_names, unet_key
from nemo_dreamfusion.checkpoints.models import build_empty
from nemo_dreamfusion.checkpoints.mvdream_ports import ModelFiles
from nemo_dreamfusion.checkpoints.single_file_model import open_tensors, take_tensors
from nemo_dreamfusion.parts.checks import refuse

SETTING = 'model.guidance.unet'
PREFIX = 'unet/'
_CONFIG, _WEIGHTS = 'unet/config.json', 'unet/diffusion_pytorch_model.safetensors'
_ADVICE = f'Set {SETTING} to a file of a UNet, or to a folder with its config.json.'
_DIFFUSERS = 'down_blocks.'


class WithUNet:
    """The files of a model, those of ``unet/`` from elsewhere; the methods are those of a Repository.

    Args:
        files: of the model.
        unet: a file of a UNet or of a whole model, or a folder of a UNet or of a whole model.
    """

    def __init__(self, files: Any, unet: str) -> None:
        if not isinstance(unet, str) or not Path(unet).expanduser().exists():
            refuse(SETTING, unet, 'null, or a file or a folder of this machine', _ADVICE)
        path = Path(unet).expanduser()
        self._files = files
        self._unet: Any = UNetFile(path, files) if path.is_file() else UNetFolder(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def _of(self, name: str) -> Any:
        return self._unet if name.startswith(PREFIX) else self._files

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The paths of the files of both."""
        return (*(name for name in self._files.names if not name.startswith(PREFIX)), *self._unet.names)

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the folder that holds the files of one of the two."""
        names = list(names)
        if names and all(name.startswith(PREFIX) for name in names):
            return self._unet.fetch(names)
        return self._files.fetch(name for name in names if not name.startswith(PREFIX))

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a configuration file.

        Raises:
            ValueError: for the UNet of a Stable Diffusion XL over another model, the other way round, and over a model that
                has none.
        """
        if name == _CONFIG and 'transformer/config.json' in self._files.names:
            refuse(
                SETTING, self._unet.name, f'null with {self._files.name!r}, which has no UNet', f'Set {SETTING}=null.'
            )
        found = self._of(name).read_json(name)
        if name == _CONFIG and name in self._files.names:
            added, wanted = (config.get('addition_embed_type') for config in (found, self._files.read_json(name)))
            if added != wanted:
                allowed = (
                    f'a UNet like that of {self._files.name!r}, whose addition_embed_type is {wanted}, not {added}'
                )
                refuse(SETTING, self._unet.name, allowed, _ADVICE)
        return found

    def load(self, names: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the tensors of each of some files."""
        return [self._of(name).load([name])[0] for name in names]

    def identity(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return what tells files from others: their sizes and times."""
        names = list(names)
        others = [name for name in names if not name.startswith(PREFIX)]
        own = self._unet.identity([name for name in names if name.startswith(PREFIX)])
        return self._files.identity(others) | {f'{SETTING}:{name}': found for name, found in own.items()}

    def name_of(self, part: str) -> str:
        """Return where a part comes from, for messages."""
        return self._unet.name if part == 'unet' else self._files.name


class UNetFolder:
    """The UNet of a folder: one of a whole model, or one that has the UNet's files in itself."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._files = ModelFiles(self.name, advice=_ADVICE)

    @cached_property
    def _cut(self) -> int:
        """How much of a name of a whole model's file the folder has not."""
        if _CONFIG in self._files.names:
            return 0
        if 'config.json' not in self._files.names:
            allowed = 'a folder of a UNet, and this one has neither config.json nor unet/config.json'
            refuse(SETTING, self.name, allowed, _ADVICE)
        return len(PREFIX)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The paths of its files, as in a folder of a whole model."""
        if self._cut:
            return tuple(PREFIX + name for name in self._files.names if '/' not in name)
        return tuple(name for name in self._files.names if name.startswith(PREFIX))

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the folder; a Git LFS pointer in it is refused."""
        return self._files.fetch(name[self._cut :] for name in names)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a configuration file."""
        return self._files.read_json(name[self._cut :])

    def load(self, names: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the tensors of each of some files."""
        return self._files.load([name[self._cut :] for name in names])

    def identity(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return what tells files from others: their sizes and times."""
        return self._files.identity([name[self._cut :] for name in names])


class UNetFile:
    """A UNet in one file, with the configuration of the UNet that it takes the place of.

    Args:
        path: a ``.safetensors`` file under the names of diffusers or of latent diffusion, or a whole model.
        replaced: the files of the model whose UNet it replaces.
    """

    names = (_CONFIG, _WEIGHTS)

    def __init__(self, path: Path, replaced: Any) -> None:
        self.path, self.name, self._replaced = path, str(path), replaced

    @cached_property
    def _opened(self) -> Mapping[str, Tensor]:
        """The tensors by name; of a safetensors file without their numbers."""
        tensors, _ = open_tensors(self.path, SETTING, in_a_folder=True)
        kind = file_kinds.describe(tensors)
        if kind not in (file_kinds.UNET, file_kinds.NO_TEXT, *file_kinds.WHOLE):
            refuse(SETTING, self.name, f'a UNet for texts; this file holds {kind}', _ADVICE)
        return tensors

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the folder of the file, once it is known to fit."""
        wanted, found = self._wanted, self._renamed(self._opened)
        other = sorted(set(wanted) ^ set(found))
        other += [key for key in wanted if key in found and wanted[key].shape != found[key].shape]
        if other:
            count = f'{len(other)} of its tensors do not fit, such as {other[0]}'
            allowed = f'a UNet like that of {self._replaced.name!r}; {count}'
            refuse(SETTING, self.name, allowed, _ADVICE)
        return self.path.parent

    def identity(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return what tells the file from others, where it is asked for: its size and time."""
        found = self.path.stat()
        return {self.path.name: [found.st_size, found.st_mtime_ns]} if list(names) else {}

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the configuration of the UNet that it replaces."""
        return self._replaced.read_json(name)

    def load(self, names: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the tensors under diffusers' names, once."""
        return [self._renamed(take_tensors(self.path, self._opened, self._own))]

    @cached_property
    def _wanted(self) -> Mapping[str, Tensor]:
        """The tensors of the UNet that it replaces, by name, without numbers."""
        return build_empty('UNet2DConditionModel', self.read_json(_CONFIG), self._replaced.name).state_dict()

    @cached_property
    def _own(self) -> list[str]:
        """The names of the tensors of the UNet; a whole model has others, too."""
        whole = [key for key in self._opened if key.startswith(nemo_keys.PARTS['unet'])]
        return whole or list(self._opened)

    def _renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = {key.removeprefix(nemo_keys.PARTS['unet']).removeprefix('unet.'): tensors[key] for key in self._own}
        if any(key.startswith(_DIFFUSERS) for key in named):
            return named
        return under_new_names(nemo_keys.to_latest_names(named), self._wanted, unet_key(self.read_json(_CONFIG)))
