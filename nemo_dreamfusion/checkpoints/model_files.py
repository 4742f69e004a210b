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

"""Open a diffusion model, be it a folder, a hub repository or one file, as the files of a folder in diffusers' format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_dreamfusion.checkpoints.file_kinds import WEIGHTS
from nemo_dreamfusion.checkpoints.mvdream_ports import ModelFiles
from nemo_dreamfusion.checkpoints.other_unet import WithUNet
from nemo_dreamfusion.checkpoints.single_file_model import SingleFile


def open_files(name: str, *, setting: str, advice: str, unet: str | None = None, **hub: Any) -> Any:
    """Return an object with the methods of a :class:`~nemo_dreamfusion.checkpoints.repository.Repository`.

    Args:
        name: a folder, a file of a whole model, or a hub id.
        setting: what the user sets to choose it, for messages.
        advice: a sentence for the end of a message: what to set to choose another one.
        unet: a file or a folder whose UNet is taken in place of its own.
        hub: ``revision`` and ``local_files_only`` of a hub repository.
    """
    path = Path(name)
    is_one = path.is_file() and path.suffix in WEIGHTS
    files: Any = SingleFile(path, setting=setting, advice=advice) if is_one else ModelFiles(name, advice=advice, **hub)
    return files if unet is None else WithUNet(files, unet)
