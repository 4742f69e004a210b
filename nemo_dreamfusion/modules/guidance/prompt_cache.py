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

"""Encoded texts on disk, so that a second run with the same model and texts loads no text encoder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.tensor_cache import read_tensors, write_tensors

logger = logging.getLogger(__name__)
_FORMAT = 1  # changes when a family encodes otherwise than before


class PromptCache:
    """The contexts of texts, one file each.

    Args:
        folder: where they are.
        model: what names the text encoders and all that changes what they give: of plain data.
    """

    def __init__(self, folder: Path, model: Any) -> None:
        self.folder = folder
        self.model = hashlib.sha256(json.dumps([_FORMAT, model], sort_keys=True, default=str).encode()).hexdigest()

    def encode(self, texts: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """Return the contexts [n, L, D] of texts; ``encode`` is called once, for those that are not known, or never."""
        known = {text: self._read(text) for text in texts}
        missing = [text for text, context in known.items() if context is None]
        if missing:
            for text, context in zip(missing, encode(missing)):
                known[text] = context.cpu()
                self._write(text, context.cpu())
        return torch.stack([context for text in texts if (context := known[text]) is not None])

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(f'{self.model}\n{text}'.encode()).hexdigest()[:40]
        return self.folder / f'{name}.safetensors'

    def _read(self, text: str) -> Tensor | None:
        return read_tensors(self._path(text)).get('context')

    def _write(self, text: str, context: Tensor) -> None:
        if reason := write_tensors(self._path(text), {'context': context}):
            logger.warning('model.guidance.prompts.cache cannot be written (%s): texts are encoded anew.', reason)
