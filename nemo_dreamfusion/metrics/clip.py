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

"""CLIP (Radford et al., 2021, https://arxiv.org/abs/2103.00020), from a folder or the hub, by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_dreamfusion.checkpoints.models import hide_progress_bars
from nemo_dreamfusion.checkpoints.repository import Repository
from nemo_dreamfusion.metrics.base import ImageTextEncoder
from nemo_dreamfusion.parts.checks import check_positive, first_line, refuse
from nemo_dreamfusion.parts.files import sha256_of
from nemo_dreamfusion.parts.optional import require

WEIGHTS = ('model.safetensors', 'pytorch_model.bin')  # the second is read as tensors alone
FILES = ('config.json', 'preprocessor_config.json')
TOKENIZER = ('tokenizer.json', 'vocab.json', 'merges.txt', 'tokenizer_config.json', 'special_tokens_map.json')
PUBLISHED = ('openai/clip-vit-base-patch32', 'openai/clip-vit-base-patch16', 'openai/clip-vit-large-patch14')
SETTING = 'metric.encoder.source'
ADVICE = (
    f'Set {SETTING} to a folder with config.json, preprocessor_config.json, the tokenizer and model.safetensors of a whole '
    f'CLIP, such as hf download gives of {", ".join(PUBLISHED)}; with metric.encoder.local_files_only=false they are '
    'downloaded.'
)


class CLIPEncoder(ImageTextEncoder):
    """The towers of a CLIP: projected, of unit length.

    Args:
        source: a folder, or a hub id.
        name: of the stage's folder and the report's row.
        local_files_only: read the hub's cache only.
        batch_size: pictures or texts at a time.

    Raises:
        ValueError: for a value out of range.
    """

    folder: Path
    weights: str  # the file of the folder

    def __init__(
        self, *, source: str, name: str = 'clip', local_files_only: bool = True, batch_size: int = 32
    ) -> None:
        self.source, self.name = source, name
        self.batch_size = check_positive('metric.encoder.batch_size', batch_size, integer=True)
        self.local_files_only = local_files_only
        self._digest: str | None = None

    def check(self) -> None:
        """Find the files, after a look at the configuration.

        Raises:
            ValueError: for a folder that holds no whole CLIP, or a hub id that the cache does not hold.
        """
        local = Path(self.source).expanduser()
        if not local.is_dir() and (local.exists() or self.source.startswith(('.', '/', '~'))):
            refuse(SETTING, self.source, 'a folder that exists, or a hub id', ADVICE)
        repository = Repository(
            str(local) if local.is_dir() else self.source, local_files_only=self.local_files_only, advice=ADVICE
        )
        names = repository.names
        if 'config.json' not in names:
            refuse(SETTING, self.source, 'a folder with config.json, and this has none', ADVICE)
        kind = repository.read_json('config.json').get('model_type')
        if kind != 'clip':
            refuse(SETTING, self.source, f"a whole CLIP, model_type 'clip', and this is {kind!r}", ADVICE)
        present = [name for name in WEIGHTS if name in names]
        if not present:
            refuse(SETTING, self.source, f'a folder with {" or ".join(WEIGHTS)}, and this has neither', ADVICE)
        if FILES[1] not in names:
            refuse(SETTING, self.source, f'a folder with {FILES[1]}, and this has none', ADVICE)
        if not {'tokenizer.json', 'vocab.json'} & set(names):
            refuse(SETTING, self.source, 'a folder with tokenizer.json, or vocab.json and merges.txt', ADVICE)
        self.weights = present[0]
        self.folder = repository.fetch([*FILES, self.weights, *(name for name in TOKENIZER if name in names)])

    def describe(self) -> dict[str, Any]:
        """Return the name, and the checksums of weights and preprocessing; after :meth:`check`."""
        if self._digest is None:
            self._digest = sha256_of(self.folder / self.weights)
        return {
            'encoder': self.name,
            'weights_sha256': self._digest,
            'preprocessing_sha256': sha256_of(self.folder / FILES[1]),
        }

    def prepare(self, device: torch.device) -> None:
        """Load model, tokenizer and preprocessing.

        Raises:
            ValueError: when a file is damaged, or they do not belong together.
        """
        transformers = require('transformers', extra=None, reason='CLIP is read with it')
        try:
            with hide_progress_bars():
                model, report = transformers.CLIPModel.from_pretrained(
                    self.folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
                )
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            self.preprocess = transformers.CLIPImageProcessorPil.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # of transformers, safetensors, tokenizers or torch
            raise ValueError(
                f'{SETTING} = {self.source!r} cannot be loaded ({first_line(error)}). {ADVICE}'
            ) from error
        if missing := sorted(report['missing_keys']):
            raise ValueError(f'{SETTING} = {self.source!r} lacks weights, such as {missing[0]}. {ADVICE}')
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        self.length = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> Tensor:
        """Return unit vectors of pictures: uint8 [N, H, W, 3] -> [N, D]."""
        found = []
        for part in _batches(list(images), self.batch_size):
            pixels = self.preprocess(images=part, return_tensors='pt')['pixel_values'].to(self.device)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            found.append(self.model.visual_projection(pooled))
        return F.normalize(torch.cat(found).float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of N texts, cut to the length that CLIP reads: [N, D]."""
        found = []
        for part in _batches(list(texts), self.batch_size):
            tokens = self.tokenizer(
                part, padding='max_length', truncation=True, max_length=self.length, return_tensors='pt'
            ).to(self.device)
            pooled = self.model.text_model(
                input_ids=tokens['input_ids'], attention_mask=tokens['attention_mask']
            ).pooler_output
            found.append(self.model.text_projection(pooled))
        return F.normalize(torch.cat(found).float(), dim=-1)


def _batches(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]
