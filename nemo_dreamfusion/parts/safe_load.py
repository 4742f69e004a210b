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

"""Read a Lightning checkpoint as plain data: whoever made it, no code in it runs."""

from __future__ import annotations

import pickle
import typing
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer

PLAIN_CLASSES: list[Any] = [
    DictConfig,
    ListConfig,
    ContainerMetadata,
    Metadata,
    AnyNode,
    typing.Any,
    dict,
    list,
    defaultdict,
    int,
]


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers, texts, containers of them and OmegaConf's nodes; nothing else, no code.

    Args:
        path: a zip file, as ``torch.save`` writes it.
        map_location: see ``torch.load``.

    Raises:
        ValueError: when it is missing, damaged (each part's checksum is compared) or holds anything else.
    """
    refuse_lfs_pointer(path)
    try:
        with zipfile.ZipFile(path) as parts:
            broken = parts.testzip()
        if broken is not None:
            raise ValueError(f'the checksum of {broken} differs')
        with torch.serialization.safe_globals(PLAIN_CLASSES):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
            raise ValueError('it holds no state_dict')
    except pickle.UnpicklingError as error:  # torch's words advise to run the code
        raise ValueError(
            f'{path} is no readable checkpoint: it holds pickled code or is damaged; only plain data is read.'
        ) from error
    except Exception as error:  # what damage raises depends on where it is
        raise ValueError(f'{path} is no readable checkpoint ({first_line(error)}).') from error
    return checkpoint
