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

"""Tensors on disk that a model gives again and again: encoded texts, the map of the latent phase."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.files import atomic_path

AUTO = 'auto'


def cache_folder(setting: str | None, kind: str = 'prompts') -> Path | None:
    """Return the folder of a setting such as ``model.guidance.prompts.cache``; None: nothing is kept.

    ``auto`` is that of the environment variable NEMO_DREAMFUSION_CACHE, or one of the user's caches.
    """
    if setting is None:
        return None
    if setting != AUTO:
        return Path(setting).expanduser()
    own = os.environ.get('NEMO_DREAMFUSION_CACHE')
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return (Path(own) if own else caches / 'nemo_dreamfusion') / kind


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; {} where it is not there, or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return {}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """Write a file, whole or not at all; return why it cannot be written, None where it was."""
    from safetensors.torch import save_file

    try:
        with atomic_path(path) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    except OSError as error:
        return first_line(error)
    return None
