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

"""The map of the latent phase on disk: fitting it costs some dozen encodings, a minute for a Stable Diffusion on a CPU.

A file is named after a hash of all that the map is made of, the weights' own bytes above all: other weights at the same
place have another file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch

from nemo_dreamfusion.modules.guidance.latent_maps import CALIBRATION_IMAGES, LinearLatentMap, fit_linear_map
from nemo_dreamfusion.modules.guidance.networks.vae import ImageLatents
from nemo_dreamfusion.modules.guidance.tensor_cache import read_tensors, write_tensors

logger = logging.getLogger(__name__)
_FORMAT = 1  # changes when the map is fitted otherwise than before
_FIELDS = ('matrix', 'offset', 'r2')


def cached_linear_map(
    folder: Path | None, encode: ImageLatents, image_size: int, device: torch.device | str
) -> LinearLatentMap:
    """Return what :func:`fit_linear_map` gives for an encoder, from ``folder`` where it is known there.

    Args:
        folder: where the maps are kept; None: nowhere.
        encode: images to latents, on ``device``.
        image_size: as in :func:`fit_linear_map`.
        device: of the map.
    """
    if folder is None:
        return fit_linear_map(encode, image_size, encode.factor, device)
    path = folder / f'{map_key(encode, image_size, device)}.safetensors'
    found = read_tensors(path)
    if found.keys() == set(_FIELDS) and found['matrix'].shape == (encode.channels, 3):
        return LinearLatentMap(found['matrix'].to(device), found['offset'].to(device), found['r2'])
    made = fit_linear_map(encode, image_size, encode.factor, device)
    if reason := write_tensors(path, {name: getattr(made, name) for name in _FIELDS}):
        logger.warning('model.guidance.latents.cache cannot be written (%s): the latent map is fitted anew.', reason)
    return made


def map_key(encode: ImageLatents, image_size: int, device: torch.device | str) -> str:
    """Return a name for the map of an encoder: a hash of its weights' bytes, its layers and all other settings."""
    settings = [_FORMAT, CALIBRATION_IMAGES, image_size, torch.device(device).type, encode.factor, encode.channels]
    config = {key: str(value) for key, value in encode.encoder.vae.config.items() if not key.startswith('_')}
    about = [*settings, encode.scaling, encode.shift, type(encode).__qualname__, repr(encode), config]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted((*encode.named_parameters(), *encode.named_buffers()), key=lambda pair: pair[0]):
        key.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}'.encode())
        key.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return key.hexdigest()[:40]
