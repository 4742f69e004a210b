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

"""Whether the parts of a model fit each other, for the families beside Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_dreamfusion.checkpoints.configurations import refuse_key
from nemo_dreamfusion.checkpoints.families import FamilyFiles
from nemo_dreamfusion.checkpoints.file_kinds import by_channels

_KLEIN_LAYERS = 3  # of its language model, whose states are laid side by side


def check_sizes(family: FamilyFiles, configs: Mapping[str, Mapping[str, Any]], name: str, advice: str) -> None:
    """Refuse a network whose latents or texts are not those of the parts beside it.

    Args:
        family: of the model.
        configs: of its parts.
        name: of the model, for messages.
        advice: what to set to choose another one.

    Raises:
        ValueError: with the key, its value and what it must be.
    """
    denoiser, file = configs[family.denoiser], f'{family.denoiser}/config.json of {name!r}'
    latents = configs['vae'].get('latent_channels', 4)
    channels = latents * 4 if family.name == 'flux2_klein' else latents
    if denoiser.get('in_channels', channels) != channels:
        kind = by_channels(denoiser['in_channels'])
        reason = f'the VAE gives {channels} channels: this is {kind}, which cannot guide'
        refuse_key(file, 'in_channels', denoiser['in_channels'], reason, advice)
    if family.name == 'flux2_klein' and denoiser.get('guidance_embeds', True):
        reason = 'a model that takes the guidance scale as an input was distilled, and it must be false'
        refuse_key(file, 'guidance_embeds', True, reason, advice)
    key, width = _context_width(family.name, configs)
    if key in denoiser and denoiser[key] != width:
        reason = f'the text encoders give {width} numbers a token: they are of different models'
        refuse_key(file, key, denoiser[key], reason, advice)


def _context_width(family: str, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, int | None]:
    """Return the key that says how wide the texts are, and how wide they will be."""
    text = configs['text_encoder']['hidden_size']
    if family == 'sdxl':
        return 'cross_attention_dim', text + configs['text_encoder_2']['hidden_size']
    if family == 'sd3':
        language = configs.get('text_encoder_3')
        return ('joint_attention_dim', language['d_model']) if language else ('', None)
    if family == 'flux2_klein':
        return 'joint_attention_dim', _KLEIN_LAYERS * text
    if family == 'z_image':
        return 'cap_feat_dim', text
    return 'cross_attention_dim', text
