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

"""A Stable Diffusion in one file, as model sites have them, seen as a folder in diffusers' format.

Configurations are read off the shapes of the tensors (:mod:`.latent_diffusion`), so that no network is needed; numbers are
read part by part when they are asked for. Stable Diffusion 1.x, 2.x and XL, and MVDream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from nemo_dreamfusion.checkpoints import file_kinds, nemo_keys, nemo_text
from nemo_dreamfusion.checkpoints.latent_diffusion import under_new_names, unet_config, unet_key, vae_config
from nemo_dreamfusion.checkpoints.models import build_empty
from nemo_dreamfusion.checkpoints.mvdream_file import IMAGE_SIZE, SCHEDULER, VAE_SCALE, read_tensors
from nemo_dreamfusion.checkpoints.single_file import refuse_damage, refuse_file
from nemo_dreamfusion.checkpoints.weight_files import STEMS

_XL_SCALE = 0.13025
_PREDICTIONS = {'epsilon': 'epsilon', 'eps': 'epsilon', 'v': 'v_prediction', 'v_prediction': 'v_prediction'}
_CLIP, _OPEN_CLIP = 'FrozenCLIPEmbedder', 'FrozenOpenCLIPEmbedder'
_XL_ENCODERS = {'text_encoder': 'conditioner.embedders.0.', 'text_encoder_2': 'conditioner.embedders.1.'}
_PROJECTION = 'text_projection'
_CONFIGS = {'scheduler/scheduler_config.json': 'scheduler', 'model_index.json': 'index'}
_CLASSES = {
    'unet': 'UNet2DConditionModel',
    'vae': 'AutoencoderKL',
    'text_encoder': 'CLIPTextModel',
    'text_encoder_2': 'CLIPTextModelWithProjection',
}


class SingleFile:
    """The files that a folder in diffusers' format would have, out of one file; the methods are those of a Repository.

    Args:
        path: a ``.safetensors`` file; or one that torch saved, of which no code is run.
        setting: what names it, for messages.
        advice: a sentence for the end of a message: what to set to choose another model.
    """

    is_local = True
    tokenizer_source = 'openai/clip-vit-large-patch14'  # of which all the text encoders read the tokens

    def __init__(self, path: Path, *, setting: str, advice: str) -> None:
        self.path, self.name, self.setting, self.advice = path, str(path), setting, advice
        self._configs: dict[str, dict[str, Any]] = {}

    # What is in it

    @cached_property
    def _opened(self) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """The tensors by name, of a safetensors file without their numbers, and the texts in its header."""
        tensors, texts = open_tensors(self.path, self.setting)
        kind = file_kinds.describe(tensors)
        if kind not in file_kinds.WHOLE:
            refuse_file(self.path, self.setting, kind=kind)
        return tensors, texts

    @cached_property
    def _kind(self) -> str:
        return file_kinds.describe(self._opened[0])

    @cached_property
    def _prefixes(self) -> dict[str, str]:
        """What the names of the tensors of each part begin with."""
        is_xl = self._kind == file_kinds.SDXL
        encoders = _XL_ENCODERS if is_xl else {'text_encoder': nemo_keys.PARTS['text_encoder']}
        return {'unet': nemo_keys.PARTS['unet'], 'vae': nemo_keys.PARTS['vae'], **encoders}

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        """The names of the tensors of each part."""
        return {part: [key for key in self._opened[0] if key.startswith(p)] for part, p in self._prefixes.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the files that a folder would have."""
        weights = [f'{part}/{STEMS[part]}.safetensors' for part in self._parts]
        return (*_CONFIGS, *(f'{part}/config.json' for part in self._parts), *weights)

    def fetch(self, names: Iterable[str]) -> Path:
        """Return the folder of the file: nothing has to be downloaded."""
        return self.path.parent

    def identity(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return what tells the file from others: its size and time."""
        found = self.path.stat()
        return {self.path.name: [found.st_size, found.st_mtime_ns]}

    # Configurations

    def read_json(self, name: str) -> dict[str, Any]:
        """Return what the configuration file of a folder would say; empty where there would be none."""
        part = _CONFIGS.get(name, name.removesuffix('/config.json'))
        if name not in self.names:
            return {}
        if part not in self._configs:
            made = {
                'index': self._index_config,
                'scheduler': self._scheduler_config,
                'unet': self._unet_config,
                'vae': self._vae_config,
            }
            self._configs[part] = made[part]() if part in made else self._text_config(part)
        return dict(self._configs[part])

    def _index_config(self) -> dict[str, Any]:
        is_xl = self._kind == file_kinds.SDXL
        return {'_class_name': 'StableDiffusionXLPipeline', 'force_zeros_for_empty_prompt': True} if is_xl else {}

    def _scheduler_config(self) -> dict[str, Any]:
        zero_snr = {'rescale_betas_zero_snr': True} if 'ztsnr' in self._opened[0] else {}
        return {**SCHEDULER, **zero_snr, 'prediction_type': self._prediction}

    @cached_property
    def _prediction(self) -> str:
        """What the UNet predicts: by the header, a mark that trainers leave, or a configuration beside the file."""
        tensors, texts = self._opened
        said = 'v' if 'v_pred' in tensors else texts.get('modelspec.prediction_type') or self._said_beside()
        if said in _PREDICTIONS:
            return _PREDICTIONS[said]
        if said is not None or (self._kind == file_kinds.SD and self.is_open_clip('text_encoder')):
            beside = self.path.with_suffix('.yaml').name
            raise ValueError(
                f'{self.setting}={self.name!r} is a Stable Diffusion 2 that does not say what it predicts'
                f'{f" in words that are known here ({said})" if said else ""}: put a file {beside} beside it with the line '
                '"model: {params: {parameterization: v}}" (2.1, 768 pixels), or with eps in the place of v (2-base, 512).'
            )
        return 'epsilon'

    def _said_beside(self) -> str | None:
        """Return the ``parameterization`` of a configuration of the same name beside the file; None without one."""
        beside = self.path.with_suffix('.yaml')
        if not beside.is_file():
            return None
        try:
            said = yaml.safe_load(beside.read_text(encoding='utf-8'))
            return str(said['model']['params'].get('parameterization', 'eps'))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{str(beside)!r} is no configuration of a model (model.params): correct it.') from error

    @cached_property
    def _image_size(self) -> int:
        """Side of the pictures that it was trained with, pixels."""
        if match := re.fullmatch(r'(\d+)x\1', self._opened[1].get('modelspec.resolution', '')):
            return int(match[1])
        if self._kind != file_kinds.SD:
            return {file_kinds.SDXL: 1024, file_kinds.MVDREAM: IMAGE_SIZE}[self._kind]
        return 768 if self._prediction == 'v_prediction' else 512

    def _unet_config(self) -> dict[str, Any]:
        pooled = self._opened[0].get(f'{_XL_ENCODERS["text_encoder_2"]}model.{_PROJECTION}')
        factor = 2 ** (len(self.read_json('vae/config.json')['block_out_channels']) - 1)
        return unet_config(
            self._unet_tensors(self._opened[0]),
            f'unet of {self.name!r}',
            latent_size=self._image_size // factor,
            pooled=0 if pooled is None else pooled.shape[1],
        )

    def _vae_config(self) -> dict[str, Any]:
        scale = _XL_SCALE if self._kind == file_kinds.SDXL else VAE_SCALE
        tensors, name = self._vae_tensors(self._opened[0]), f'vae of {self.name!r}'
        return vae_config(tensors, name, image_size=self._image_size, scale=scale)

    def _text_config(self, part: str) -> dict[str, Any]:
        tensors, conditioning = self._text_tensors(self._opened[0], part)
        try:
            config = nemo_text.text_config(tensors, conditioning)
        except ValueError as error:
            raise ValueError(f'{part} of {self.name!r} cannot be read. {error}') from error
        projection = tensors.get(f'{_PROJECTION}.weight')
        return config if projection is None else config | {'projection_dim': projection.shape[0]}

    # Tensors

    def load(self, names: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return the tensors of weight files of a folder, under diffusers' names."""
        return [self._load(name.partition('/')[0]) for name in names]

    def name_of(self, part: str) -> str:
        """Return where a part comes from, for messages."""
        return self.name

    def _load(self, part: str) -> dict[str, Tensor]:
        stored = take_tensors(self.path, self._opened[0], self._parts[part])
        if part.startswith('text_encoder'):
            return self._text_tensors(stored, part)[0]
        config = self.read_json(f'{part}/config.json')
        network = build_empty(_CLASSES[part], config, f'{part} of {self.name!r}').state_dict()
        if part == 'unet':
            return under_new_names(self._unet_tensors(stored), network, unet_key(config))
        levels = len(config['block_out_channels'])
        return under_new_names(self._vae_tensors(stored), network, lambda key: nemo_keys.to_nemo_vae_key(key, levels))

    def _of(self, tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
        """Return the tensors of a part without its prefix."""
        names = self._parts[part]
        return {name[len(self._prefixes[part]) :]: tensors[name] for name in names}

    def _unet_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return nemo_keys.to_latest_names(self._of(tensors, 'unet'))

    def _vae_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: nemo_keys.to_diffusers_vae_tensor(key, value)
            for key, value in self._of(tensors, 'vae').items()
            if not key.startswith('loss.')
        }

    def _text_tensors(self, tensors: Mapping[str, Tensor], part: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors of a text encoder under transformers' names, and what NeMo would say of it.

        Of Stable Diffusion 2's the last layer is left out, which it does not read.
        """
        stored = self._of(tensors, part)
        open_clip = self.is_open_clip(part)
        layer = 'penultimate' if open_clip and part == 'text_encoder' else 'last'
        conditioning = {'_target_': _OPEN_CLIP if open_clip else _CLIP, 'layer': layer}
        found = nemo_text.to_clip_names(stored, conditioning)
        projection = stored.get(f'model.{_PROJECTION}')
        if part == 'text_encoder_2' and projection is not None:
            found[f'{_PROJECTION}.weight'] = projection.T.contiguous()
        return found, conditioning

    def is_open_clip(self, part: str) -> bool:
        """Return whether a text encoder is OpenCLIP's, whose texts are padded with the token 0."""
        return any('resblocks' in name for name in self._parts[part])


def open_tensors(
    path: Path, setting: str, *, in_a_folder: bool = False
) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
    """Return the tensors of a file by name, of a safetensors file without their numbers, and the texts in its header.

    Args:
        path: a ``.safetensors`` file; or one that torch saved, of which no code is run.
        setting: what names it, for messages.
        in_a_folder: whether it may lie in a folder in diffusers' format.

    Raises:
        ValueError: for a file that is not whole, or needs code of its own to be read.
    """
    refuse_damage(path, setting, in_a_folder=in_a_folder)
    if path.suffix == '.safetensors':
        try:
            return file_kinds.read_header(path)
        except ValueError as error:
            raise ValueError(f'{setting}={str(path)!r} {error}.') from error
    tensors = read_tensors(path)
    if not tensors:
        raise ValueError(
            f'{setting}={str(path)!r} is damaged, or pickled with more than tensors, and code of a file is never run: '
            'take the .safetensors of the same model.'
        )
    return tensors, {}


def take_tensors(path: Path, opened: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Return some of the tensors that :func:`open_tensors` found, with their numbers."""
    if path.suffix != '.safetensors':
        return {name: opened[name] for name in names}
    from safetensors import safe_open

    with safe_open(path, framework='pt') as file:
        return {name: file.get_tensor(name) for name in names}
