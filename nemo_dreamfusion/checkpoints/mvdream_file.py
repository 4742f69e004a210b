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

"""MVDream's published checkpoints, ``sd-v2.1-base-4view.pt`` and ``sd-v1.5-4view.pt``, part by part.

The file is a dictionary of tensors under the names of latent diffusion; it has no configuration, so that the sizes are read
off the tensors. Shi et al., https://arxiv.org/abs/2308.16512.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints import nemo_keys, nemo_text
from nemo_dreamfusion.checkpoints.latent_diffusion import unet_config, unet_key, vae_config
from nemo_dreamfusion.checkpoints.models import build_model
from nemo_dreamfusion.parts.checks import check_positive
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer

IMAGE_SIZE = 256  # pixels, of both published models
SCHEDULER = {
    '_class_name': 'DDIMScheduler',
    'num_train_timesteps': 1000,
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'prediction_type': 'epsilon',
    'clip_sample': False,
    'set_alpha_to_one': False,
    'steps_offset': 1,
}
VAE_SCALE = 0.18215


def is_mvdream(state: Mapping[str, Any]) -> bool:
    """Return whether tensors are of an MVDream, by the names of what embeds the camera."""
    return any('camera_embed.0.weight' in key for key in state)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.pt`` or ``.ckpt`` file, mapped from the disk; empty for what holds anything else.

    No code of the file is run: torch's restricted unpickler reads it.
    """
    refuse_lfs_pointer(path)
    try:
        loaded = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except Exception:  # of the disk, the zip file or the unpickler
        return {}
    state = loaded.get('state_dict', loaded) if isinstance(loaded, dict) else {}
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


class MVDreamFile:
    """The networks of one file; nothing is copied before it is asked for.

    Args:
        state: the tensors.
        name: of the file, for messages.
        head_channels: channels of an attention head of the UNet, which no tensor tells; None: as published, 64 where the
            projections are linear (2.1) and the eighth part of a level where they are convolutions (1.5).
    """

    def __init__(self, state: Mapping[str, Tensor], name: str, *, head_channels: int | None = None) -> None:
        self.parts, self.name = nemo_keys.split_parts(state), name
        self.head_channels = head_channels
        if head_channels is not None:
            check_positive('head_channels', head_channels, integer=True)

    @property
    def has_text_encoder(self) -> bool:
        """Return whether the text encoder lies in the file too."""
        return bool(self.parts['text_encoder'])

    def unet(self, dtype: torch.dtype | None = None) -> nn.Module:
        """Return a UNet2DConditionModel whose class label is the camera."""
        tensors = nemo_keys.to_latest_names(self.parts['unet'])
        return build_unet(tensors, f'unet of {self.name!r}', dtype, head_channels=self.head_channels)

    def vae(self, dtype: torch.dtype | None = None) -> nn.Module:
        """Return the AutoencoderKL."""
        tensors = {
            key: nemo_keys.to_diffusers_vae_tensor(key, value)
            for key, value in self.parts['vae'].items()
            if not key.startswith('loss.')
        }
        name = f'vae of {self.name!r}'
        config = vae_config(tensors, name, image_size=IMAGE_SIZE, scale=VAE_SCALE)
        levels = len(config['block_out_channels'])
        return build_model(
            'AutoencoderKL', config, tensors, dtype, name, lambda key: nemo_keys.to_nemo_vae_key(key, levels)
        )

    def text_encoder(self, dtype: torch.dtype | None = None) -> nn.Module:
        """Return the CLIPTextModel; of OpenCLIP's the last layer is left out, which MVDream does not read."""
        stored = self.parts['text_encoder']
        open_clip = any('resblocks' in key for key in stored)
        kind = 'FrozenOpenCLIPEmbedder' if open_clip else 'FrozenCLIPEmbedder'
        conditioning = {'_target_': kind, 'layer': 'penultimate' if open_clip else 'last'}
        tensors = nemo_text.to_clip_names(stored, conditioning)
        config = nemo_text.text_config(tensors, conditioning)
        return build_model('CLIPTextModel', config, tensors, dtype, f'text_encoder of {self.name!r}')


def build_unet(
    tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype | None, *, head_channels: int | None
) -> nn.Module:
    """Return the UNet of tensors under the names of latent diffusion (those of NeMo v2)."""
    config = unet_config(tensors, name, latent_size=IMAGE_SIZE // 8, head_channels=head_channels)
    return build_model('UNet2DConditionModel', config, tensors, dtype, name, unet_key(config))
