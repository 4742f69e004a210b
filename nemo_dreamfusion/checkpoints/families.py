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

"""Families of diffusion models: which parts each has in its folder, and of which family a folder is.

A family is known by the configuration of its network, never by its name. What a folder holds beside these parts is not read.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nemo_dreamfusion.checkpoints.configurations import (
    ADDED_TEXT,
    CAMERA,
    TEXT_ENCODER,
    UNET,
    UNET_XL,
    VAE,
    KeyTable,
    Only,
)
from nemo_dreamfusion.checkpoints.repository import Repository

_CLIP = ('CLIPTextModel', 'CLIPTextModelWithProjection')
_QWEN = ('Qwen3Model', 'Qwen3ForCausalLM')  # the second has a layer more, which no guidance reads
_NOT_QUANTIZED = Only((None,), 'its weights are quantized')
_DISTILLED = Only(
    (False,), 'it was distilled and takes the guidance scale as an input, so that it cannot be guided away'
)


@dataclass(frozen=True)
class FamilyFiles:
    """What a family of models has in its folder.

    name: by which the package knows it.
    title: in words.
    denoiser: the part that is the diffusion model, ``unet`` or ``transformer``.
    classes: of each part with weights, the classes that its configuration may name; the first is the one that is built.
    tables: of each part, the keys of its configuration; a part without one takes every argument of its class.
    encoders: the tokenizer of each text encoder.
    optional: the parts that may be left out.
    """

    name: str
    title: str
    denoiser: str
    classes: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, KeyTable]
    encoders: Mapping[str, str] = field(default_factory=lambda: {'text_encoder': 'tokenizer'})
    optional: tuple[str, ...] = ()

    @property
    def configs(self) -> dict[str, str]:
        """The configuration file of each part."""
        return {part: f'{part}/config.json' for part in self.classes} | {
            'scheduler': 'scheduler/scheduler_config.json'
        }

    def table(self, part: str) -> KeyTable:
        """Return the keys that a part's configuration may have."""
        return self.tables.get(part) or _arguments_of(self.classes[part][0])


def _arguments_of(kind: str) -> KeyTable:
    """Return a table of the arguments of a class of diffusers, all honoured: the class itself is built with them."""
    import diffusers

    names = frozenset(inspect.signature(getattr(diffusers, kind).__init__).parameters) - {'self', 'guidance_embeds'}
    return KeyTable(names, frozenset(), {'guidance_embeds': _DISTILLED, 'quantization_config': _NOT_QUANTIZED})


_ANY_TEXT = KeyTable(frozenset(), frozenset(), {'quantization_config': _NOT_QUANTIZED}, any_other=True)
_SD_CLASSES = {'unet': ('UNet2DConditionModel',), 'vae': ('AutoencoderKL',), 'text_encoder': _CLIP}
_SD_TABLES = {'vae': VAE, 'text_encoder': TEXT_ENCODER}
SD = FamilyFiles('sd', 'Stable Diffusion 1.x and 2.x', 'unet', _SD_CLASSES, {'unet': UNET, **_SD_TABLES})
SDXL = FamilyFiles(
    'sdxl',
    'Stable Diffusion XL',
    'unet',
    {**_SD_CLASSES, 'text_encoder_2': _CLIP[::-1]},
    {'unet': UNET_XL, **_SD_TABLES, 'text_encoder_2': TEXT_ENCODER},
    {'text_encoder': 'tokenizer', 'text_encoder_2': 'tokenizer_2'},
)
SD3 = FamilyFiles(
    'sd3',
    'Stable Diffusion 3',
    'transformer',
    {
        'transformer': ('SD3Transformer2DModel',),
        'vae': ('AutoencoderKL',),
        'text_encoder': _CLIP[::-1],
        'text_encoder_2': _CLIP[::-1],
        'text_encoder_3': ('T5EncoderModel',),
    },
    {**_SD_TABLES, 'text_encoder_2': TEXT_ENCODER, 'text_encoder_3': _ANY_TEXT},
    {'text_encoder': 'tokenizer', 'text_encoder_2': 'tokenizer_2', 'text_encoder_3': 'tokenizer_3'},
    ('text_encoder_3',),
)
FLUX2_KLEIN = FamilyFiles(
    'flux2_klein',
    'FLUX.2 klein',
    'transformer',
    {'transformer': ('Flux2Transformer2DModel',), 'vae': ('AutoencoderKLFlux2',), 'text_encoder': _QWEN},
    {'text_encoder': _ANY_TEXT},
)
Z_IMAGE = FamilyFiles(
    'z_image',
    'Z-Image',
    'transformer',
    {'transformer': ('ZImageTransformer2DModel',), 'vae': ('AutoencoderKL',), 'text_encoder': _QWEN},
    {'vae': VAE, 'text_encoder': _ANY_TEXT},
)
MVDREAM = FamilyFiles('mvdream', 'MVDream', 'unet', _SD_CLASSES, {'unet': CAMERA, **_SD_TABLES})
FAMILIES = {family.name: family for family in (SD, SDXL, SD3, FLUX2_KLEIN, Z_IMAGE, MVDREAM)}
_BY_TRANSFORMER = {family.classes['transformer'][0]: family for family in (SD3, FLUX2_KLEIN, Z_IMAGE)}


def recognise(repository: Repository, setting: str) -> FamilyFiles:
    """Return the family of a folder or hub repository; a folder without a network is taken for a Stable Diffusion.

    Raises:
        ValueError: for a network of no family that is known, with its class and the families.
    """
    unet = repository.read_json(SD.configs['unet'])
    if not unet and (transformer := repository.read_json(SD3.configs['transformer'])):
        kind = str(transformer.get('_class_name'))
        if kind not in _BY_TRANSFORMER:
            pipeline = repository.read_json('model_index.json').get('_class_name')
            what = f'{kind} of {pipeline}' if pipeline else kind
            raise ValueError(
                f'{setting}={repository.name!r} is a model of a family that is not known here ({what}). Known are '
                f'{list_families(FAMILIES)}. {repository.advice}'
            )
        return _BY_TRANSFORMER[kind]
    return _of_unet(unet)


def _of_unet(config: Mapping[str, Any]) -> FamilyFiles:
    if config.get('addition_embed_type') == ADDED_TEXT:
        return SDXL
    return MVDREAM if config.get('class_embed_type') == 'projection' else SD


def list_families(names: Any) -> str:
    """Return the names of families with what they are: 'sd (Stable Diffusion 1.x and 2.x), ...'."""
    return ', '.join(f'{name} ({FAMILIES[name].title})' for name in names)
