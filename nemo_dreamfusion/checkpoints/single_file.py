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

"""What one file is that was given where a folder in diffusers' format is wanted, and how to make a folder of it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import NoReturn

WEIGHTS = ('.safetensors', '.ckpt', '.pt', '.pth', '.bin', '.gguf')
_SCRIPT = (
    'import sys; from diffusers import StableDiffusionPipeline as P; '
    'P.from_single_file(sys.argv[1]).save_pretrained(sys.argv[2])'
)
_WHOLE = 'a whole Stable Diffusion'
_UNKNOWN = 'weights of no kind that this package knows'
# What the tensors' names in a safetensors file say, the most particular first
_KINDS = (
    (('lora_', '.lora.', '.lora_'), 'a LoRA, which is added to a model and is none'),
    (('control_model.', 'controlnet_'), 'a ControlNet, which steers a model and is none'),
    (('emb_params', 'string_to_param', 'clip_l', 'clip_g'), 'a textual inversion, which adds a word to a model'),
    (('conditioner.embedders.',), 'a Stable Diffusion XL'),
    (('joint_blocks.', 'double_blocks.', 'transformer_blocks.0.ff_context'), 'a Stable Diffusion 3 or Flux'),
    (('cond_stage_model.',), _WHOLE),
    (('model.diffusion_model.',), 'a UNet without VAE and text encoder'),
    (('down_blocks.0.attentions.', 'down_blocks.0.resnets.0.time_emb_proj'), 'a UNet without VAE and text encoder'),
    (('first_stage_model.', 'encoder.down', 'decoder.up'), 'a VAE'),
    (('text_model.',), 'a text encoder'),
)


def refuse_file(path: Path, setting: str, *, wants_nemo: bool = False) -> NoReturn:
    """Raise the ValueError that says what a file is and how to get from it what a setting wants.

    Args:
        path: a file that is there.
        setting: what it was given to.
        wants_nemo: whether the setting takes ``.nemo`` archives only, and not folders in diffusers' format.
    """
    found = f'{setting}={str(path)!r} is one file'
    folder = _model_folder_of(path)
    use = 'Set model/guidance=sd_huggingface and model.guidance.source' if wants_nemo else f'Set {setting}'
    if path.suffix == '.nemo':
        raise ValueError(
            f'{found}, a NeMo archive: set model/guidance=sd_nemo and model.guidance.checkpoint to it in place of {setting}.'
        )
    if folder is not None:
        raise ValueError(f'{found} of a folder in diffusers format. {use} to that folder, {str(folder)!r}.')
    if path.suffix not in WEIGHTS:
        raise ValueError(f'{found}, and neither weights nor a NeMo archive. {use} to a folder in diffusers format.')
    kind = describe_contents(path)
    if kind not in (_WHOLE, None):
        raise ValueError(f'{found} that holds {kind}. {use} to a whole Stable Diffusion in diffusers format.')
    what = f'{found}{f" that holds {kind}" if kind else ""}, and a folder in diffusers format is wanted'
    target = path.with_suffix('') if not path.with_suffix('').exists() else path.with_name(f'{path.stem}-diffusers')
    command = shlex.join([sys.executable, '-c', _SCRIPT, str(path), str(target)])
    raise ValueError(
        f'{what}. Convert it with this command, which fetches the configuration of the model from the hub: {command} '
        f'-- {use} to {str(target)!r} then.'
    )


def _model_folder_of(path: Path) -> Path | None:
    """Return the folder in diffusers' format that holds a file, in itself or in one of its parts; None where none does."""
    for folder in (path.parent, path.parent.parent):
        if (folder / 'model_index.json').is_file() or (folder / 'unet' / 'config.json').is_file():
            return folder
    return None


def describe_contents(path: Path) -> str | None:
    """Return what a safetensors file holds, by the names of its tensors; None for another kind of file."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != '.safetensors':
        return None
    try:
        with safe_open(path, framework='pt') as file:
            names = list(file.keys())
    except (SafetensorError, OSError):
        return 'nothing that can be read: it is damaged, or was not downloaded to its end'
    for marks, kind in _KINDS:
        if any(mark in name for name in names for mark in marks):
            return kind
    return _UNKNOWN
