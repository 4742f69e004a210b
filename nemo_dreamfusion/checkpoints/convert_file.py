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

"""A whole model in one file to a folder in diffusers' format. Tensors keep their values and types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.families import FAMILIES
from nemo_dreamfusion.checkpoints.models import hide_progress_bars
from nemo_dreamfusion.parts.files import atomic_folder

_NO_TOKENIZER = 'The folder holds no tokenizer: set tokenizer=<folder or hub id> to put one beside the weights.'


def open_file(source: str, tokenizer: str | None) -> DiffusersCheckpoint:
    """Return a file of a whole model, checked but for its tokenizer."""
    checkpoint = DiffusersCheckpoint(source, setting='source', families=tuple(FAMILIES), tokenizer=tokenizer)
    checkpoint.check((*checkpoint.parts, 'scheduler'))
    return checkpoint


def file_to_folder(checkpoint: DiffusersCheckpoint, target: Path, *, tokenizer: str | None = None) -> list[str]:
    """Write a folder for each part, the noise schedule, ``model_index.json`` and, where there are any, the tokenizers.

    Args:
        checkpoint: of :func:`open_file`.
        target: the folder, which appears whole or not at all.
        tokenizer: what was asked for; None: OpenAI's own, where it is found.

    Returns:
        What a user should know of the result, in sentences.
    """
    index: dict[str, Any] = {'_class_name': 'StableDiffusionPipeline', **checkpoint.index()}
    scheduler = checkpoint.scheduler_config()
    index['scheduler'] = ['diffusers', scheduler['_class_name']]
    notes: list[str] = []
    with atomic_folder(target) as folder, hide_progress_bars():
        for part in checkpoint.parts:
            network: Any = (
                checkpoint.text_encoder(None, part) if part in checkpoint.encoders else _load(checkpoint, part)
            )
            index[part] = [type(network).__module__.partition('.')[0], type(network).__name__]
            network.save_pretrained(folder / part)
        for part, where in checkpoint.encoders.items():
            try:
                checkpoint.tokenizer(part).save_pretrained(folder / where)
            except ValueError:
                if tokenizer is not None:
                    raise
                notes = [_NO_TOKENIZER]
                continue
            index[where] = ['transformers', 'CLIPTokenizer']
        (folder / 'scheduler').mkdir()
        (folder / 'scheduler' / 'scheduler_config.json').write_text(json.dumps(scheduler, indent=2), encoding='utf-8')
        (folder / 'model_index.json').write_text(json.dumps(index, indent=2, sort_keys=True), encoding='utf-8')
    return notes


def _load(checkpoint: DiffusersCheckpoint, part: str) -> Any:
    return getattr(checkpoint, part)(None)
