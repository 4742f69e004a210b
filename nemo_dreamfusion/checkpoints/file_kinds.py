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

"""What a file of weights holds, by the names and the shapes of its tensors. Nothing is run, no weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nemo_dreamfusion.checkpoints.nemo_keys import PARTS
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.git_lfs import is_lfs_pointer

WEIGHTS = ('.safetensors', '.ckpt', '.pt', '.pth', '.bin')  # that are read, the pickled ones as plain tensors alone
SD, SDXL, MVDREAM = 'a whole Stable Diffusion', 'a whole Stable Diffusion XL', 'a whole MVDream'
WHOLE = (SD, SDXL, MVDREAM)
UNET = 'a UNet without VAE and text encoder'
NO_TEXT = 'a model without a text encoder'
UNKNOWN = 'weights of no kind that this package knows'
LDM, VAE, TEXT = (PARTS[part] for part in ('unet', 'vae', 'text_encoder'))  # in front of the names of a whole file
PICKLED = (b'PK\x03\x04', b'\x80')  # the first bytes of torch.save's zip file and of a bare pickle
_FIRST_CONVOLUTIONS = (f'{LDM}input_blocks.0.0.weight', 'input_blocks.0.0.weight', 'conv_in.weight')
CHANNELS = {  # that the first convolution of a UNet takes
    5: 'a depth-to-image model (it takes a depth map beside the latents)',
    7: 'an upscaler (it takes a small picture beside the latents)',
    8: 'an image-editing model such as InstructPix2Pix (it takes a picture beside the latents)',
    9: 'an inpainting model (it takes a picture and a mask beside the latents)',
}
_SD3 = 'a Stable Diffusion 3 or Flux, which is read from a folder in diffusers format alone'
# What the names say, the most particular first
_MARKS = (
    (('lora_', '.lora.', '.lora_'), 'a LoRA, which is added to a model and is none'),
    (('joint_blocks.', 'double_blocks.', 'transformer_blocks.0.ff_context'), _SD3),
    (('control_model.', 'controlnet_', 'input_hint_block.'), 'a ControlNet, which steers a model and is none'),
    (('ip_adapter.', 'image_proj.'), 'an IP-Adapter, which shows a model pictures and is none'),
    (('adapter.body.',), 'a T2I-Adapter, which steers a model and is none'),
    (('motion_modules.',), 'a motion module of AnimateDiff, which makes videos'),
    (('.time_stack.', '.time_mixer.'), 'an image-to-video model (Stable Video Diffusion)'),
    (('emb_params', 'string_to_param', 'clip_l', 'clip_g'), 'a textual inversion, which adds a word to a model'),
    (('conditioner.embedders.0.model.',), 'the refiner of Stable Diffusion XL, which needs a picture to refine'),
    (('edm_mean',), 'a Playground 2.5, whose noise is of another kind (EDM)'),
    (('embedder.model.visual.', 'noise_augmentor.'), 'an unCLIP model (it varies a picture)'),
)
_PARTS = (
    ((LDM,), UNET),
    (('down_blocks.0.attentions.', 'down_blocks.0.resnets.0.time_emb_proj', 'input_blocks.'), UNET),
    ((VAE, 'encoder.down', 'decoder.up'), 'a VAE'),
    (('text_model.', 'transformer.resblocks.'), 'a text encoder'),
)


def describe(tensors: Mapping[str, Tensor]) -> str:
    """Return what tensors are, by their names and shapes; one of ``WHOLE`` is a model that can guide.

    >>> describe({'first_stage_model.encoder.conv_in.weight': torch.zeros(1)})
    'a VAE'
    """
    if not tensors:
        return 'no tensors'
    for marks, kind in _MARKS:
        if _any(tensors, marks):
            return kind
    first = next((tensors[key] for key in _FIRST_CONVOLUTIONS if key in tensors), None)
    if first is not None and first.ndim == 4 and first.shape[1] in CHANNELS:
        return CHANNELS[first.shape[1]]
    if all(_any(tensors, (prefix,)) for prefix in (LDM, VAE)):
        if _any(tensors, ('conditioner.embedders.',)):
            return SDXL
        if _any(tensors, (TEXT,)):
            return MVDREAM if _any(tensors, ('camera_embed.0.weight',)) else SD
        return NO_TEXT
    return next((kind for marks, kind in _PARTS if _any(tensors, marks)), UNKNOWN)


def by_channels(channels: int) -> str:
    """Return what a UNet is whose first convolution takes other channels than the VAE gives."""
    return CHANNELS.get(channels, 'a model that takes more than latents')


def _any(tensors: Mapping[str, Tensor], marks: tuple[str, ...]) -> bool:
    return any(mark in key for key in tensors for mark in marks)


def damage(path: Path) -> str | None:
    """Return why a file holds no weights that are read, in words that complete "this file ..."; None where it may."""
    if is_lfs_pointer(path):
        return 'is a Git LFS pointer and not the file itself: install Git LFS and run git lfs pull'
    if path.stat().st_size == 0:
        return 'is empty: download it again'
    with path.open('rb') as opened:
        start = opened.read(9)
    if start.lstrip().lower().startswith((b'<html', b'<!doct')):
        return 'is a web page (of a login, perhaps): download it again'
    is_safetensors = start[8:] == b'{'  # behind the length of the header, which may begin like a pickle
    if path.suffix == '.safetensors' and start.startswith(PICKLED) and not is_safetensors:
        return 'is pickled in spite of its name: take a true .safetensors'
    return None


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, without their numbers (on ``meta``), and the texts in its header.

    Raises:
        ValueError: for a file that is damaged or cut short.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='pt') as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
            return {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f'is damaged or cut short ({first_line(error)}): download it again') from error


def describe_contents(path: Path) -> str | None:
    """Return what a safetensors file holds; None for another kind of file."""
    if path.suffix != '.safetensors':
        return None
    try:
        return describe(read_header(path)[0])
    except ValueError:
        return 'nothing that can be read: it is damaged, or was not downloaded to its end'
