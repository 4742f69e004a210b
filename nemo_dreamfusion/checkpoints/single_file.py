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

"""What one file is that cannot be taken, and what to set instead."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from nemo_dreamfusion.checkpoints.file_kinds import UNET, WEIGHTS, WHOLE, damage, describe_contents

OTHERS = {'.onnx': 'an ONNX model', '.gguf': 'quantized weights', '.engine': 'a TensorRT engine'}


def refuse_damage(path: Path, setting: str, *, wants_nemo: bool = False, in_a_folder: bool = False) -> None:
    """Raise the ValueError that says why a file holds no weights that are read; return where it may.

    Args:
        path: a file that is there.
        setting: what it was given to.
        wants_nemo: whether the setting takes ``.nemo`` archives only, and not folders and files in diffusers' format.
        in_a_folder: whether it may be a file of a folder in diffusers' format.
    """
    found = f'{setting}={str(path)!r} is one file'
    use = _use(setting, wants_nemo)
    folder = None if in_a_folder else _model_folder_of(path)
    if path.suffix == '.nemo':
        raise ValueError(
            f'{found}, a NeMo archive: set model/guidance=sd_nemo and model.guidance.checkpoint to it in place of {setting}.'
        )
    if folder is not None:
        raise ValueError(f'{found} of a folder in diffusers format. {use} to that folder, {str(folder)!r}.')
    if path.suffix not in WEIGHTS:
        what = OTHERS.get(path.suffix, 'and neither weights nor a NeMo archive')
        raise ValueError(
            f'{found}, {what}. {use} to a folder in diffusers format, or to the .safetensors of a whole model.'
        )
    if problem := damage(path):
        raise ValueError(f'{setting}={str(path)!r} {problem}.')


def refuse_file(path: Path, setting: str, *, wants_nemo: bool = False, kind: str | None = None) -> NoReturn:
    """Raise the ValueError that says what a file is and how to get from it what a setting wants.

    Args:
        path, setting, wants_nemo: as in :func:`refuse_damage`.
        kind: what it holds, where that is known.
    """
    refuse_damage(path, setting, wants_nemo=wants_nemo)
    found, use = f'{setting}={str(path)!r} is one file', _use(setting, wants_nemo)
    kind = kind or describe_contents(path) or 'pickled weights'
    if kind in WHOLE or (wants_nemo and kind == 'pickled weights'):
        raise ValueError(f'{found} that holds {kind}. {use} to it.')
    if kind == UNET and setting == 'model.guidance.source':
        raise ValueError(
            f'{found} that holds {kind}. Set model.guidance.unet to it, and {setting} to the model whose VAE and text '
            'encoder it goes with, a whole Stable Diffusion.'
        )
    raise ValueError(f'{found} that holds {kind}. {use} to a whole Stable Diffusion, a file or a folder.')


def _use(setting: str, wants_nemo: bool) -> str:
    return 'Set model/guidance=sd_huggingface and model.guidance.source' if wants_nemo else f'Set {setting}'


def _model_folder_of(path: Path) -> Path | None:
    """Return the folder in diffusers' format that holds a file, in itself or in one of its parts; None where none does."""
    for folder in (path.parent, path.parent.parent):
        if (folder / 'model_index.json').is_file() or (folder / 'unet' / 'config.json').is_file():
            return folder
    return None
