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

"""A Stable Diffusion by its name alone, whatever its format."""

from __future__ import annotations

from typing import Any

from nemo_dreamfusion.checkpoints.base import Checkpoint
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.parts.checks import refuse

_OF_FOLDERS = {
    'tokenizer': (None,),
    'context_length': ('auto',),
    'unnormalised_kv': (False, None),
    'text_heads': (None,),
}


def open_checkpoint(source: str, *, setting: str, local_files_only: bool = False, **options: Any) -> Checkpoint:
    """Open a :class:`NemoCheckpoint` for a name that ends in ``.nemo``, a :class:`DiffusersCheckpoint` for every other.

    Args:
        source: a ``.nemo`` file, a folder in diffusers' format, a hub id, or ``pocket``.
        setting: what the user sets to choose it, for messages.
        local_files_only: read the hub's cache only.
        options: of :class:`NemoCheckpoint`. What differs from its default is refused for a folder, which says it itself.
    """
    if isinstance(source, str) and source.endswith('.nemo'):
        return NemoCheckpoint(source, local_files_only=local_files_only, **options)
    for name, value in options.items():
        if value not in _OF_FOLDERS[name]:
            prefix = setting.rpartition('.')[0]
            refuse(f'{prefix}.{name}'.lstrip('.'), value, f'left out where {setting} is no .nemo archive')
    return DiffusersCheckpoint(source, local_files_only=local_files_only, setting=setting)
