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

"""The two ports of MVDream to diffusers' format, read as a folder that this package would write. Their code is never run.

One (``lzq49/mvdream-sd21-diffusers``) keeps what embeds the camera in ``camera_proj/`` beside a plain UNet. The other
(``ashawkey/mvdream-sd2.1-diffusers``) has a UNet of a class of its own, under the names of latent diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nemo_dreamfusion.checkpoints import nemo_config, nemo_keys
from nemo_dreamfusion.checkpoints.configurations import CAMERA_NUMBERS
from nemo_dreamfusion.checkpoints.latent_diffusion import under_new_names, unet_key
from nemo_dreamfusion.checkpoints.models import build_empty
from nemo_dreamfusion.checkpoints.repository import Repository
from nemo_dreamfusion.parts.checks import refuse

CONFIG = 'unet/config.json'
CAMERA_CONFIG, CAMERA_WEIGHTS = 'camera_proj/config.json', 'camera_proj/diffusion_pytorch_model'
_OWN_CLASSES = ('MultiViewUNetModel', 'MultiViewUNetWrapperModel')
_CAMERA = {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': CAMERA_NUMBERS}


class ModelFiles(Repository):
    """A folder or repository; of a port of MVDream, as this package would have written it."""

    @property
    def _has_camera_beside(self) -> bool:
        return CAMERA_CONFIG in self.names

    @property
    def _has_own_class(self) -> bool:
        return super().read_json(CONFIG).get('_class_name') in _OWN_CLASSES

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the content of a JSON file; of a port's UNet, the configuration of the class of diffusers."""
        said = super().read_json(name)
        if name != CONFIG:
            return said
        if said.get('_class_name') in _OWN_CLASSES:
            return self._config_of_own_class(said)
        if self._has_camera_beside:
            return said | _CAMERA
        return said

    def _config_of_own_class(self, said: dict[str, Any]) -> dict[str, Any]:
        where = f'{CONFIG} of {self.name!r}'
        if said.get('ip_dim'):
            allowed = '0: a model that is shown a picture (ImageDream) cannot guide by texts alone'
            refuse(f'ip_dim in {where}', said['ip_dim'], allowed, self.advice)
        if said.get('camera_dim') != CAMERA_NUMBERS:
            refuse(f'camera_dim in {where}', said.get('camera_dim'), f'{CAMERA_NUMBERS}, a matrix', self.advice)
        try:  # projections of this class are always linear
            found = nemo_config.unet_config({'unet_config': {**said, 'use_linear_in_transformer': True}})
        except (KeyError, TypeError) as error:
            raise ValueError(f'{where} does not say its {error}. {self.advice}') from error
        return {'_class_name': 'UNet2DConditionModel', **found, **_CAMERA}

    def load(self, names: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the tensors of each of some files; of a port's UNet, under diffusers' names."""
        found = super().load(names)
        if not any(name.startswith('unet/') for name in names):
            return found
        if self._has_own_class:
            return [self._rename(tensors) for tensors in found]
        if self._has_camera_beside:
            found[0] |= self._camera_tensors()
        return found

    def _rename(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        config = self.read_json(CONFIG)
        network = build_empty('UNet2DConditionModel', config, f'unet of {self.name!r}').state_dict()
        stored = nemo_keys.to_latest_names({key.removeprefix('unet.'): value for key, value in tensors.items()})
        return under_new_names(stored, network, unet_key(config))

    def _camera_tensors(self) -> dict[str, Tensor]:
        there = [name for name in self.names if name.startswith(CAMERA_WEIGHTS) and name.endswith('.safetensors')]
        if not there:
            raise ValueError(f'{self.name!r} lacks {CAMERA_WEIGHTS}.safetensors. {self.advice}')
        plain = f'{CAMERA_WEIGHTS}.safetensors'
        (tensors,) = super().load([plain if plain in there else there[0]])
        return {f'class_embedding.{key}': value for key, value in tensors.items()}
