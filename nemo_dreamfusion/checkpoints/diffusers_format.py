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

"""Stable Diffusion in diffusers' format: a local folder or a repository of the Hugging Face hub, safetensors only."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemo_dreamfusion.checkpoints.configurations import CHOOSE, check_configuration, check_whole
from nemo_dreamfusion.checkpoints.models import build_empty, build_model, take_unnormalised_keys_and_values
from nemo_dreamfusion.checkpoints.nemo_config import check_context_length
from nemo_dreamfusion.checkpoints.repository import Repository
from nemo_dreamfusion.checkpoints.single_file import WEIGHTS as SINGLE_FILES
from nemo_dreamfusion.checkpoints.single_file import refuse_file
from nemo_dreamfusion.checkpoints.tokenizers import FILES as TOKENIZER_FILES
from nemo_dreamfusion.checkpoints.tokenizers import fit_to_encoder
from nemo_dreamfusion.checkpoints.weight_files import (
    choose_variant,
    describe_missing,
    find_variants,
    how_to_convert,
    read_weights,
    weight_files,
)
from nemo_dreamfusion.parts.checks import check_choice, first_line

logger = logging.getLogger(__name__)
CLASSES = {'unet': 'UNet2DConditionModel', 'vae': 'AutoencoderKL', 'text_encoder': 'CLIPTextModel'}
CONFIGS = {**{part: f'{part}/config.json' for part in CLASSES}, 'scheduler': 'scheduler/scheduler_config.json'}
PARTS = (*CONFIGS, 'tokenizer')
PACKAGED = 'pocket'  # the source that is the embedded model
BESIDE = 'nemo_dreamfusion.json'  # what a conversion from NeMo leaves in the folder, and diffusers has no place for
ATTENTION = ('sdpa', 'flash', 'math', 'xformers')
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
    """A Stable Diffusion 1.x or 2.x in diffusers' format.

    Args:
        source: a local folder, a hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``, or a
            name of ``PACKAGED``, such as ``pocket``.
        revision: branch, tag or commit of the hub repository.
        variant: the infix of the weight files, ``fp16`` for ``diffusion_pytorch_model.fp16.safetensors``; parts that have
            no such files are read from their plain ones. None: the plain files, or the only variant that there is.
        local_files_only: read the hub's cache only.
        setting: what the user sets to choose the source, for messages.
        variant_setting: what the user sets to choose the variant; None where nothing does.
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
    ) -> None:
        self._setting, self._variant_setting = setting, variant_setting
        self._advice = f'Set {setting} to a folder in diffusers format, a hub id, or pocket.'
        if not isinstance(source, str) or not source.strip():
            raise ValueError(f'{setting} = {source!r} is not a folder and not a hub id. {self._advice}')
        self.name = resolve_source(source)
        self.local_files_only = bool(local_files_only)
        self.repository = Repository(
            self.name, revision=revision, local_files_only=self.local_files_only, advice=self._advice
        )
        self._variant = variant

    # --- what is there -------------------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        """Return whether the source is a folder on this machine."""
        return self.repository.is_local

    def check(self, parts: tuple[str, ...] = PARTS) -> None:
        """Refuse what cannot guide before anything is loaded: missing files, and configurations that are not known.

        Args:
            parts: what must be there; a conversion does without a tokenizer.

        Raises:
            ValueError: with the file or the key, and the way out.
        """
        self.check_files(parts)
        for part in CONFIGS:
            self.config(part)
        check_whole({part: self.config(part) for part in CLASSES}, self.name, f'{CHOOSE} {self._advice}')
        for part, kind in CLASSES.items():
            build_empty(kind, self._model_config(part), f'{part} of {self.name!r}')
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
                f'{self._setting}={self.name!r} is not a whole Stable Diffusion in diffusers format: '
                f'it lacks {", ".join(missing)}. {self._single_file_inside()}{self._advice}'
            )

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
        if part == 'tokenizer':
            found = {'tokenizer/tokenizer.json', 'tokenizer/vocab.json'} & set(names)
            return [] if found else ['tokenizer/vocab.json']
        missing = [] if CONFIGS[part] in names else [CONFIGS[part]]
        if part in CLASSES and not find_variants(names, part):
            missing.append(describe_missing(self.repository, part))
        return missing

    def _single_file_inside(self) -> str:
        """Return a sentence about a one-file checkpoint or pickled weights in the folder; empty where there are none."""
        found = [name for name in self.repository.names if '/' not in name and name.endswith(SINGLE_FILES)]
        if not found:
            return how_to_convert(self.repository)
        return f'It holds {found[0]}, which as {self._setting} gives the command that converts it. '

    def _chosen(self, part: str) -> str | None:
        return choose_variant(self.repository, part, self._variant, self._variant_setting)

    # --- Checkpoint ----------------------------------------------------------------------------------------------

    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        self.check_files(('tokenizer',))
        files = [name for name in self.repository.names if name.startswith('tokenizer/')]
        folder = self.repository.fetch(files) / 'tokenizer'
        try:
            with hide_progress_bars():
                tokenizer = CLIPTokenizer.from_pretrained(folder)
        except Exception as error:  # transformers raises OSError, ValueError, KeyError and json's own alike
            reason = f'Cannot load the tokenizer of {self.name!r} ({first_line(error)})'
            raise ValueError(f'{reason}: its files are damaged or incomplete. {self._advice}') from error
        encoder = self.repository.read_json(CONFIGS['text_encoder'])
        tokens, vocabulary = (encoder.get(*size) if encoder else None for size in CLIP_DEFAULTS.items())
        return fit_to_encoder(tokenizer, tokens=tokens, vocabulary=vocabulary, name=self.name)

    def tokenizer_files(self) -> dict[str, bytes]:
        """Return the files of the tokenizer by their names; empty where it has none."""
        names = [
            name for name in self.repository.names if any(Path(name).match(f'tokenizer/{f}') for f in TOKENIZER_FILES)
        ]
        folder = self.repository.fetch(names)
        return {Path(name).name: (folder / name).read_bytes() for name in names}

    def text_encoder(self, dtype: torch.dtype | None) -> nn.Module:
        return self._load('text_encoder', dtype)

    def unet(self, dtype: torch.dtype | None) -> nn.Module:
        unet = self._load('unet', dtype)
        return take_unnormalised_keys_and_values(unet) if self.attends_unnormalised() else unet

    def vae(self, dtype: torch.dtype | None) -> nn.Module:
        return self._load('vae', dtype)

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
        """Return the configuration file of ``unet``, ``vae``, ``text_encoder`` or ``scheduler``.

        Raises:
            ValueError: when it is missing, cannot be read, or says what is not known here.
        """
        self.check_files(())
        if CONFIGS[part] not in self.repository.names:
            self.check_files((part,))
        config = self.repository.read_json(CONFIGS[part])
        check_configuration(part, config, f'{CONFIGS[part]} of {self.name!r}', f'{CHOOSE} {self._advice}')
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
        if part == 'text_encoder':
            named = {key.removeprefix('text_model.'): value for key, value in stored.items()}
            return {key: value for key, value in named.items() if not key.endswith(_UNREAD)}
        return stored

    def _load(self, part: str, dtype: torch.dtype | None) -> nn.Module:
        tensors, config = self.tensors(part), self._model_config(part)
        return build_model(CLASSES[part], config, tensors, dtype, f'{part} of {self.name!r}')

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


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide the progress bars of loading and saving; the hub's own, of downloads, stay."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def set_attention(network: Any, attention: str) -> None:
    """Choose how ``network``, a diffusers UNet or VAE, computes softmax(Q K^T / sqrt(d)) V.

    ``sdpa`` torch's fused attention, by the kernel that torch chooses; ``flash`` its flash kernel, or an error where it has
    none; ``math`` the plain formula; ``xformers`` the kernels of that package.

    Raises:
        ValueError: for another word, and for xformers where that package cannot be used.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    class FlashAttnProcessor(AttnProcessor2_0):
        def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return super().__call__(*args, **kwargs)

    check_choice('model.guidance.networks.attention', attention, ATTENTION)
    if attention == 'xformers':
        try:
            network.enable_xformers_memory_efficient_attention()
        except (ImportError, ValueError) as error:
            raise ValueError(
                f'model.guidance.networks.attention=xformers cannot be used here ({error}). '
                'Set model.guidance.networks.attention=sdpa.'
            ) from error
    else:
        kinds = {'sdpa': AttnProcessor2_0, 'flash': FlashAttnProcessor, 'math': AttnProcessor}
        network.set_attn_processor(kinds[attention]())
