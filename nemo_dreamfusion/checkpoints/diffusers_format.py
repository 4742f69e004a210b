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

"""Stable Diffusion in diffusers' format: a local folder or a repository of the Hugging Face hub, safetensors only.

The only file of ``modules`` and ``checkpoints`` that imports diffusers and transformers, and only when it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemo_dreamfusion.checkpoints.models import unnormalised_self_attention
from nemo_dreamfusion.checkpoints.nemo_config import check_context_length
from nemo_dreamfusion.checkpoints.tokenizers import fitted
from nemo_dreamfusion.parts.checks import check_choice, first_line
from nemo_dreamfusion.parts.optional import available

WEIGHTS = {
    'unet': 'diffusion_pytorch_model',
    'vae': 'diffusion_pytorch_model',
    'text_encoder': 'model',
}
NETWORKS = (*WEIGHTS, 'scheduler')
PACKAGED = 'pocket'
BESIDE = 'nemo_dreamfusion.json'  # what a conversion from NeMo leaves in the folder, and diffusers has no place for
ATTENTION = ('sdpa', 'flash', 'math', 'xformers')


def resolve_source(source: str) -> str:
    """``pocket`` as the folder that ships with the package; everything else (a folder, a hub id) as it is."""
    if source == PACKAGED:
        return str(Path(__file__).resolve().parents[1] / 'pocket' / 'weights')
    return str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source


class DiffusersCheckpoint:
    """A Stable Diffusion 1.x or 2.x in diffusers' format.

    Args:
        source: a local folder, a hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``, or ``pocket``.
        revision: branch, tag or commit of the hub repository.
        variant: the infix of the weight files, ``fp16`` for ``diffusion_pytorch_model.fp16.safetensors``.
        local_files_only: read the hub's cache only.
        setting: what the user sets to choose the source, for messages.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        setting: str = 'model.guidance.source',
    ) -> None:
        self._setting = setting
        self._advice = f'Set {setting} to a folder in diffusers format, a hub id, or pocket.'
        if not isinstance(source, str) or not source.strip():
            raise ValueError(f'{setting} = {source!r} is not a folder and not a hub id. {self._advice}')
        self.name = resolve_source(source)
        self.local_files_only = bool(local_files_only)
        self._hub = {'revision': revision, 'local_files_only': self.local_files_only}
        self._variant = variant
        self._said: dict[str, Any] | None = None

    @property
    def is_local(self) -> bool:
        """Whether the source is a folder on this machine."""
        return Path(self.name).is_dir()

    def check_folder(self, parts: tuple[str, ...] = NETWORKS) -> None:
        """ValueError that lists what a local folder lacks; says nothing of a hub repository."""
        if not self.is_local:
            looks_like_path = self.name.count('/') != 1 or self.name.startswith(('.', '/', '~'))
            if looks_like_path:
                raise ValueError(f'{self._setting}={self.name!r}: there is no such folder. {self._advice}')
            return
        missing = [what for part in parts for what in self._missing(part)]
        if missing:
            raise ValueError(
                f'{self._setting}={self.name!r} is not a whole Stable Diffusion in diffusers format: '
                f'it lacks {", ".join(missing)}. {self._advice}'
            )

    def _missing(self, part: str) -> list[str]:
        folder = Path(self.name) / part
        if part == 'tokenizer':
            found = (folder / 'tokenizer.json').is_file() or (folder / 'vocab.json').is_file()
            return [] if found else ['tokenizer/vocab.json']
        if part == 'scheduler':
            return [] if (folder / 'scheduler_config.json').is_file() else ['scheduler/scheduler_config.json']
        missing = [] if (folder / 'config.json').is_file() else [f'{part}/config.json']
        if not any(folder.glob('*.safetensors')):
            pickled = any(folder.glob('*.bin')) or any(folder.glob('*.ckpt'))
            note = ' (pickled weights are not read: convert them to safetensors)' if pickled else ''
            missing.append(f'{part}/{WEIGHTS[part]}.safetensors{note}')
        return missing

    def local_folder(self) -> Path:
        """The whole of it as a folder on this machine, downloaded where it is not there yet. A tokenizer may lack."""
        self.check_folder()
        if self.is_local:
            return Path(self.name)
        from huggingface_hub import snapshot_download

        parts = [f'{part}/{kind}' for part in WEIGHTS for kind in ('config.json', f'{WEIGHTS[part]}*.safetensors')]
        try:
            folder = snapshot_download(
                self.name,
                allow_patterns=[*parts, 'tokenizer/*', 'scheduler/*', BESIDE],
                ignore_patterns=['*.fp16.safetensors', '*.non_ema.safetensors'],
                **self._hub,
            )
        except Exception as error:  # of the network, the hub or the disk
            raise ValueError(f'Cannot download {self.name!r} ({error}). {self._advice}') from error
        DiffusersCheckpoint(folder).check_folder()
        return Path(folder)

    def tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        self.check_folder(('tokenizer',))

        def read(name: str, subfolder: str) -> tuple[Any, dict[str, Any]]:
            return CLIPTokenizer.from_pretrained(Path(name) / subfolder), _json(Path(name, 'text_encoder/config.json'))

        tokenizer, encoder = self._load('tokenizer', read)
        tokens, vocabulary = (encoder.get(*size) if encoder else None for size in _CLIP_SIZES)
        return fitted(tokenizer, tokens=tokens, vocabulary=vocabulary, name=self.name)

    def text_encoder(self, dtype: torch.dtype) -> nn.Module:
        from transformers import CLIPTextModel

        self.check_folder()
        return self._load_weights('text_encoder', CLIPTextModel, dtype=dtype)

    def unet(self, dtype: torch.dtype) -> nn.Module:
        from diffusers import UNet2DConditionModel

        self.check_folder()
        unet = self._load_diffusers('unet', UNet2DConditionModel, dtype)
        return unnormalised_self_attention(unet) if self.attends_unnormalised() else unet

    def vae(self, dtype: torch.dtype) -> nn.Module:
        from diffusers import AutoencoderKL

        self.check_folder()
        return self._load_diffusers('vae', AutoencoderKL, dtype)

    def scheduler_config(self) -> dict[str, Any]:
        self.check_folder(('scheduler',))

        def read(name: str, subfolder: str) -> dict[str, Any]:
            return json.loads((Path(name) / subfolder / 'scheduler_config.json').read_text())

        return self._load('scheduler', read)

    def context_length(self) -> int | None:
        return self._beside().get('context_length')

    def attends_unnormalised(self) -> bool:
        return bool(self._beside().get('unnormalised_kv', False))

    def is_openai_clip(self) -> bool:
        self.check_folder(('text_encoder',))
        config = self._load('tokenizer', lambda name, _: _json(Path(name, 'text_encoder/config.json')))
        return config.get('hidden_act', 'quick_gelu') == 'quick_gelu'  # the text towers of OpenCLIP have gelu

    def _beside(self) -> dict[str, Any]:
        if self._said is None:
            self._said = self._load('scheduler', lambda name, _: _json(Path(name, BESIDE)))
            check_context_length(f'context_length in {BESIDE} of {self.name!r}', self._said.get('context_length'))
        return self._said

    def release(self) -> None:
        pass

    def _load_diffusers(self, part: str, model: Any, dtype: torch.dtype) -> nn.Module:
        config = self._load(part, lambda name, subfolder: model.load_config(name, subfolder=subfolder, **self._hub))
        made_as = config.get('_class_name', model.__name__)
        if made_as != model.__name__:
            raise ValueError(
                f'{part} of {self.name!r} is a {made_as}; only a {model.__name__} is supported. {self._advice}'
            )
        return self._load_weights(part, model, torch_dtype=dtype, low_cpu_mem_usage=available('accelerate'))

    def _load_weights(self, part: str, model: Any, **options: Any) -> nn.Module:
        options |= {'use_safetensors': True, **self._hub}
        if self._variant is not None:
            options['variant'] = self._variant
        return self._load(part, lambda name, subfolder: model.from_pretrained(name, subfolder=subfolder, **options))

    def _load(self, part: str, loader: Callable[[str, str], Any]) -> Any:
        """What ``loader`` makes of (folder or hub id, subfolder); every failure becomes one line of advice."""
        try:
            with quiet():
                small = part in ('tokenizer', 'scheduler')
                return loader(self._fetched(part) if small and not self.is_local else self.name, part)
        except Exception as error:  # the libraries raise OSError, SafetensorError, ValueError, RuntimeError alike
            where = 'the folder is damaged or incomplete' if self.is_local else 'the hub or its cache does not give it'
            reason = f'{where} ({first_line(error)})'
            raise ValueError(f'Cannot load {part} of {self.name!r}, {reason}. {self._advice}') from error

    def _fetched(self, part: str) -> str:
        """The folder that holds the hub's copy of a part without weights. (A tokenizer that transformers itself fails to
        find comes back as an empty one, without a word.)"""
        from huggingface_hub import snapshot_download

        return snapshot_download(
            self.name, allow_patterns=[f'{part}/*', 'text_encoder/config.json', BESIDE], **self._hub
        )


_CLIP_SIZES = (('max_position_embeddings', 77), ('vocab_size', 49408))  # with CLIPTextConfig's own defaults


def _json(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is no such file."""
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}


_STORED = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}  # names of old VAE attention
_NOT_CONFIGURATION = ('architectures', 'dtype', 'model_type', 'torch_dtype', 'transformers_version')


def stored_config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a part of a local folder, without what only says how it was saved."""
    name = 'scheduler_config.json' if part == 'scheduler' else 'config.json'
    config = json.loads((folder / part / name).read_text())
    if part == 'scheduler':
        return config
    return {key: value for key, value in config.items() if key[0] != '_' and key not in _NOT_CONFIGURATION}


def stored_tensors(folder: Path, part: str) -> dict[str, Tensor]:
    """The tensors of a part of a local folder, as they are stored: the safetensors files of no variant, or of the one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    stem = WEIGHTS[part]
    files = sorted((folder / part).glob('*.safetensors'))
    plain = [f for f in files if re.fullmatch(rf'{stem}(-\d+-of-\d+)?\.safetensors', f.name)]
    tensors: dict[str, Tensor] = {}
    try:
        for file in plain or files[:1]:
            tensors |= load_file(file)
    except SafetensorError as error:
        raise ValueError(f'{part} of {str(folder)!r} is damaged or cut short ({error}).') from error
    if part == 'vae':
        return {_vae_key(key): value for key, value in tensors.items()}
    return {key: value for key, value in tensors.items() if not key.endswith('position_ids')}


def _vae_key(key: str) -> str:
    return re.sub(r'(attentions\.\d+)\.(query|key|value|proj_attn)\.', lambda m: f'{m[1]}.{_STORED[m[2]]}.', key)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar for files that load in the blink of an eye; the hub's own bars for downloads stay."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def set_attention(network: nn.Module, attention: str) -> None:
    """How a UNet or a VAE computes softmax(Q K^T) V.

    ``sdpa`` torch's fused attention, by the kernel that torch chooses; ``flash`` its flash kernel, or an error where it has
    none; ``math`` the plain formula; ``xformers`` the kernels of that package.
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
