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

"""Diffusion models in diffusers' format: a local folder or a repository of the Hugging Face hub, safetensors only."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.configurations import CHOOSE, check_configuration, check_whole
from nemo_dreamfusion.checkpoints.families import SD, FamilyFiles, list_families, recognise
from nemo_dreamfusion.checkpoints.family_sizes import check_sizes
from nemo_dreamfusion.checkpoints.file_kinds import WEIGHTS as SINGLE_FILES
from nemo_dreamfusion.checkpoints.model_files import open_files
from nemo_dreamfusion.checkpoints.models import (
    build_empty,
    build_model,
    hide_progress_bars,
    load_text_model,
    take_unnormalised_keys_and_values,
)
from nemo_dreamfusion.checkpoints.nemo_config import check_context_length
from nemo_dreamfusion.checkpoints.single_file import refuse_file
from nemo_dreamfusion.checkpoints.tokenizers import FILES as TOKENIZER_FILES
from nemo_dreamfusion.checkpoints.tokenizers import SETTING as TOKENIZER
from nemo_dreamfusion.checkpoints.tokenizers import fit_to_encoder, load_tokenizer, read_tokenizer, tokenizer_identity
from nemo_dreamfusion.checkpoints.weight_files import (
    choose_variant,
    describe_missing,
    find_variants,
    how_to_convert,
    read_weights,
    weight_files,
)
from nemo_dreamfusion.parts.checks import refuse

logger = logging.getLogger(__name__)
CLASSES = {part: classes[0] for part, classes in SD.classes.items()}
CONFIGS = SD.configs
PACKAGED = 'pocket'  # the source that is the embedded model
BESIDE = 'nemo_dreamfusion.json'  # what a conversion from NeMo leaves in the folder, and diffusers has no place for
CLIP_DEFAULTS = {'max_position_embeddings': 77, 'vocab_size': 49408}  # CLIPTextConfig's own
_OLD_ATTENTION = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}  # of VAEs of 2022
_UNREAD = ('position_ids', 'text_projection.weight', 'logit_scale')  # of text encoders
_NOT_CONFIGURATION = ('architectures', 'dtype', 'model_type', 'torch_dtype', 'transformers_version')


def resolve_source(source: str) -> str:
    """Return the folder of the embedded model for ``PACKAGED``, and everything else (a folder, a hub id) as it is."""
    if source == PACKAGED:
        return str(Path(__file__).resolve().parents[1] / 'pocket' / 'weights')
    return str(Path(source).expanduser()) if Path(source).expanduser().exists() else source


class DiffusersCheckpoint:
    """A diffusion model in diffusers' format, safetensors only, or in one file.

    Args:
        source: a local folder, a file, a hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``, or a
            name of ``PACKAGED``, such as ``pocket``.
        revision: branch, tag or commit of the hub repository.
        variant: the infix of the weight files, ``fp16`` for ``diffusion_pytorch_model.fp16.safetensors``; parts that have
            no such files are read from their plain ones. None: the plain files, or the only variant that there is.
        local_files_only: read the hub's cache only.
        setting: what the user sets to choose the source, for messages.
        variant_setting: what the user sets to choose the variant; None where nothing does.
        families: the families that may be read, names of ``FAMILIES``.
        without: parts to leave out although the folder has them; only those that the family can do without.
        unet: a file or a folder whose UNet is taken in place of the model's own.
        tokenizer: a folder, a ``tokenizer.json`` or a hub id, of the tokenizer for all CLIP text encoders.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        setting: str = 'model.guidance.source',
        variant_setting: str | None = None,
        families: Sequence[str] = (SD.name,),
        without: Sequence[str] = (),
        unet: str | None = None,
        tokenizer: str | None = None,
    ) -> None:
        self._setting, self._variant_setting = setting, variant_setting
        self._families, self._without = families, tuple(without)
        self._advice = f'Set {setting} to a folder in diffusers format, a hub id, or pocket.'
        if not isinstance(source, str) or not source.strip():
            raise ValueError(f'{setting} = {source!r} is not a folder and not a hub id. {self._advice}')
        self.name = resolve_source(source)
        self.local_files_only = bool(local_files_only)
        hub = {'revision': revision, 'local_files_only': self.local_files_only}
        self.repository = open_files(self.name, setting=setting, advice=self._advice, unet=unet, **hub)
        self._tokenizer = tokenizer or self.repository.tokenizer_source
        self._variant = variant

    # --- what is there -------------------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        """Return whether the source is a folder or a file on this machine."""
        return self.repository.is_local

    @cached_property
    def family(self) -> FamilyFiles:
        """The family of the model, by its configuration.

        Raises:
            ValueError: for a family that is not known, or that may not be read here.
        """
        if not self.is_local:
            self._check_hub_id()
        found = recognise(self.repository, self._setting)
        if found.name not in self._families:
            raise ValueError(
                f'{self._setting}={self.name!r} is a model of the family {found.name} ({found.title}), and here it must be '
                f'of {list_families(self._families)}. {self._advice}'
            )
        clip = [part for part in found.encoders if found.classes[part][0].startswith('CLIP')]
        if self._tokenizer is not None and not clip:
            allowed = f'null with {found.title}, which has no CLIP text encoder'
            refuse(TOKENIZER, self._tokenizer, allowed, f'Set {TOKENIZER}=null.')
        surplus = [part for part in self._without if part not in found.optional]
        if surplus:
            allowed = f'a list of {", ".join(found.optional)}' if found.optional else 'empty for this family of models'
            refuse('model.guidance.without', list(self._without), allowed, 'Set model.guidance.without=null.')
        return found

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts with weights: all of the family but those that may lack and do, or are left out."""
        absent = {part for part in self.family.optional if self.family.configs[part] not in self.repository.names}
        return tuple(part for part in self.family.classes if part not in absent | set(self._without))

    @property
    def encoders(self) -> dict[str, str]:
        """The text encoders that there are, each with its tokenizer."""
        return {part: tokenizer for part, tokenizer in self.family.encoders.items() if part in self.parts}

    def check(self, parts: tuple[str, ...] | None = None) -> None:
        """Refuse what cannot guide before anything is loaded: missing files, and configurations that are not known.

        Args:
            parts: what must be there, all where None is given; a conversion does without a tokenizer.

        Raises:
            ValueError: with the file or the key, and the way out.
        """
        self.check_files(parts or (*self.parts, 'scheduler', *self.encoders.values()))
        configs = {part: self.config(part) for part in (*self.parts, 'scheduler')}
        if self.family is SD:
            check_whole({part: configs[part] for part in CLASSES}, self.name, f'{CHOOSE} {self._advice}')
        else:
            check_sizes(self.family, configs, self.name, self._advice)
        for part in self.parts:
            self.build_empty(part)
            files = weight_files(self.repository, part, self._chosen(part))
            if self.is_local:
                self.repository.fetch(files)  # refuses Git LFS pointers

    def check_files(self, parts: tuple[str, ...]) -> None:
        """Raise a ValueError that lists what the source lacks of these parts, or says what it is if it is no folder."""
        if not self.is_local:
            self._check_hub_id()
        missing = [what for part in parts for what in self._missing(part)]
        if missing:
            raise ValueError(
                f'{self._setting}={self.name!r} is not a whole {self._kind} in diffusers format: '
                f'it lacks {", ".join(missing)}. {self._said_class()}{self._single_file_inside()}{self._advice}'
            )

    @property
    def _kind(self) -> str:
        return 'Stable Diffusion' if self.family.name in ('sd', 'mvdream') else self.family.title

    def _check_hub_id(self) -> None:
        path = Path(self.name)
        if path.exists():
            refuse_file(path, self._setting)
        if '://' in self.name:
            raise ValueError(f'{self._setting}={self.name!r} is an address. {self._advice}')
        if path.suffix in (*SINGLE_FILES, '.nemo'):
            raise ValueError(f'{self._setting}={self.name!r}: there is no such file. {self._advice}')
        if self.name.count('/') != 1 or self.name.startswith(('.', '/', '~')):
            raise ValueError(f'{self._setting}={self.name!r}: there is no such folder. {self._advice}')

    def _missing(self, part: str) -> list[str]:
        names = self.repository.names
        if part.startswith('tokenizer'):
            if self._tokenizer is not None:
                return []
            wanted = ('vocab.json', 'tokenizer.json', 'spiece.model')  # any of them
            return [] if {f'{part}/{name}' for name in wanted} & set(names) else [f'{part}/vocab.json']
        config = self.family.configs[part]
        missing = [] if config in names else [config]
        if part in self.family.classes and not find_variants(names, part):
            missing.append(describe_missing(self.repository, part))
        return missing

    def _said_class(self) -> str:
        """Return a sentence with what the folder says that it is; empty where it says nothing."""
        files = (self.repository.read_json(name) for name in ('model_index.json', 'config.json'))
        said = next((found['_class_name'] for found in files if '_class_name' in found), None)
        return f'It says that it is a {said}. ' if said else ''

    def _single_file_inside(self) -> str:
        """Return a sentence about a one-file checkpoint or pickled weights in the folder; empty where there are none."""
        found = [name for name in self.repository.names if '/' not in name and name.endswith(SINGLE_FILES)]
        if not found:
            return how_to_convert(self.repository)
        return f'It holds {found[0]}, which {self._setting} takes itself. '

    def _chosen(self, part: str) -> str | None:
        return choose_variant(self.repository, part, self._variant, self._variant_setting)

    # --- Checkpoint ----------------------------------------------------------------------------------------------

    def tokenizer(self, part: str = 'text_encoder') -> Any:
        """Return the tokenizer of a text encoder, with the encoder's length where that has one."""
        where = self.family.encoders[part]
        self.check_files((where,))
        is_clip = self._built_class(part).startswith('CLIP')
        if is_clip and self._tokenizer is not None:
            tokenizer = load_tokenizer(self._tokenizer, local_files_only=self.local_files_only)
            if self.repository.is_open_clip(part):
                tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        else:
            files = [name for name in self.repository.names if name.startswith(f'{where}/')]
            folder = self.repository.fetch(files) / where
            tokenizer = read_tokenizer(folder, f'the {where} of {self.name!r}', self._advice, is_clip=is_clip)
        if not is_clip:
            return tokenizer
        encoder = self.repository.read_json(self.family.configs[part])
        tokens, vocabulary = (encoder.get(*size) if encoder else None for size in CLIP_DEFAULTS.items())
        return fit_to_encoder(tokenizer, tokens=tokens, vocabulary=vocabulary, name=self.name)

    def tokenizer_files(self) -> dict[str, bytes]:
        """Return the files of the tokenizer by their names; empty where it has none."""
        names = [
            name for name in self.repository.names if any(Path(name).match(f'tokenizer/{f}') for f in TOKENIZER_FILES)
        ]
        folder = self.repository.fetch(names)
        return {Path(name).name: (folder / name).read_bytes() for name in names}

    def text_encoder(self, dtype: torch.dtype | None, part: str = 'text_encoder') -> nn.Module:
        kind = self._built_class(part)
        if kind.startswith('CLIP'):
            return self._load(part, dtype)
        variant = self._chosen(part)
        files = [self.family.configs[part], *weight_files(self.repository, part, variant)]
        index = [name for name in self.repository.names if name.startswith(f'{part}/') and name.endswith('.json')]
        folder = self.repository.fetch([*files, *index]) / part
        with hide_progress_bars():
            return load_text_model(kind, folder, dtype, f'{part} of {self.name!r}', variant)

    def unet(self, dtype: torch.dtype | None) -> nn.Module:
        unet = self._load('unet', dtype)
        return take_unnormalised_keys_and_values(unet) if self.attends_unnormalised() else unet

    def transformer(self, dtype: torch.dtype | None) -> nn.Module:
        """Load the diffusion transformer of a family that has one in the UNet's place."""
        return self._load('transformer', dtype)

    def vae(self, dtype: torch.dtype | None) -> nn.Module:
        return self._load('vae', dtype)

    def build_empty(self, part: str) -> nn.Module:
        """Return the network of a part without memory for its tensors."""
        return build_empty(self._built_class(part), self._model_config(part), f'{part} of {self.name!r}')

    def text_identity(self) -> dict[str, Any]:
        """Return what tells text encoders and tokenizers from all others: a hub's commit, a folder's files."""
        wanted = ('text_encoder', 'tokenizer', 'model_index', BESIDE)
        names = [name for name in self.repository.names if name.startswith(wanted)]
        identity: dict[str, Any] = {'family': self.family.name, 'parts': self.parts, 'name': self.name}
        if self._tokenizer is not None:
            identity['tokenizer'] = tokenizer_identity(self._tokenizer)
        if not self.is_local:
            small = [name for name in names if name.endswith('.json')]
            return identity | {'commit': self.repository.fetch(small).name, 'variant': self._variant}
        files = self.repository.identity(names)
        return identity | {'name': str(Path(self.name).resolve()), 'files': files, 'variant': self._variant}

    def index(self) -> dict[str, Any]:
        """Return ``model_index.json``; empty where there is none."""
        return self.repository.read_json('model_index.json')

    def scheduler_config(self) -> dict[str, Any]:
        return self.config('scheduler')

    def context_length(self) -> int | None:
        return self._beside.get('context_length')

    def attends_unnormalised(self) -> bool:
        return bool(self._beside.get('unnormalised_kv', False))

    def is_openai_clip(self) -> bool:
        return self.config('text_encoder').get('hidden_act', 'quick_gelu') == 'quick_gelu'  # OpenCLIP's have gelu

    def release(self) -> None:
        pass

    # --- reading -------------------------------------------------------------------------------------------------

    @cached_property
    def _beside(self) -> dict[str, Any]:
        said = self.repository.read_json(BESIDE)
        check_context_length(f'context_length in {BESIDE} of {self.name!r}', said.get('context_length'))
        return said

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration file of a part, such as ``unet``, or of the ``scheduler``.

        Raises:
            ValueError: when it is missing, cannot be read, or says what is not known here.
        """
        self.check_files(())
        file = self.family.configs[part]
        if file not in self.repository.names:
            self.check_files((part,))
        config = self.repository.read_json(file)
        options: dict[str, Any] = {}
        if part != 'scheduler':
            options = {'table': self.family.table(part), 'classes': self.family.classes[part]}
        advice = f'{CHOOSE} {self._advice}' if self.family is SD else self._advice
        check_configuration(part, config, f'{file} of {self.name!r}', advice, **options)
        return config

    def stored_config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a part without what only says how it was saved."""
        config = self.config(part)
        if part == 'scheduler':
            return config
        return {key: value for key, value in config.items() if key[0] != '_' and key not in _NOT_CONFIGURATION}

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Return all tensors of a part as they are stored, under the names that diffusers and transformers have now.

        Raises:
            ValueError: when they are missing, incomplete or damaged.
        """
        self.check_files((part,))
        variant = self._chosen(part)
        if variant != self._variant:
            logger.info('%s of %s: the %s weights are read.', part, self.name, variant or 'plain')
        stored = read_weights(self.repository, part, variant)
        if part == 'vae':
            return {_new_vae_key(key): value for key, value in stored.items()}
        if part.startswith('text_encoder'):
            unread = _UNREAD if self._built_class(part) == 'CLIPTextModel' else _UNREAD[:1]
            named = {key.removeprefix('text_model.'): value for key, value in stored.items()}
            return {key: value for key, value in named.items() if not key.endswith(unread)}
        return stored

    def _load(self, part: str, dtype: torch.dtype | None) -> nn.Module:
        tensors, config = self.tensors(part), self._model_config(part)
        where = f'{part} of {self.repository.name_of(part)!r}'
        return build_model(self._built_class(part), config, tensors, dtype, where)

    def _built_class(self, part: str) -> str:
        return self.family.classes[part][0]

    def _model_config(self, part: str) -> dict[str, Any]:
        config = self.config(part)
        if (
            part == 'vae' and config.get('sample_size', 0) is None
        ):  # the size of tiles, which diffusers wants as a number
            del config['sample_size']
        return config


def _new_vae_key(key: str) -> str:
    return re.sub(
        r'(attentions\.\d+)\.(query|key|value|proj_attn)\.', lambda m: f'{m[1]}.{_OLD_ATTENTION[m[2]]}.', key
    )
