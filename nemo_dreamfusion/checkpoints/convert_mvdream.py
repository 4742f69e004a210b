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

"""MVDream's published checkpoint to a folder in diffusers' format. Tensors keep their values and types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_dreamfusion.checkpoints.models import hide_progress_bars
from nemo_dreamfusion.checkpoints.mvdream_file import SCHEDULER, MVDreamFile
from nemo_dreamfusion.checkpoints.tokenizers import load_tokenizer
from nemo_dreamfusion.parts.files import atomic_folder

_NO_TEXT_ENCODER = (
    'The file holds no text encoder: copy text_encoder/ and tokenizer/ of the Stable Diffusion that it was trained from '
    '(2.1-base for sd-v2.1-base-4view, 1.5 for sd-v1.5-4view) into the folder.'
)
_NO_TOKENIZER = 'The file holds no tokenizer: set tokenizer=<folder or hub id> to put one beside the weights.'


def mvdream_to_folder(
    state: Mapping[str, Tensor],
    source: str,
    target: Path,
    *,
    tokenizer: str | None = None,
    head_channels: int | None = None,
) -> list[str]:
    """Write ``unet/`` (whose class label is the camera), ``vae/``, ``scheduler/`` and what there is of the text encoder.

    Args:
        state: the tensors of the file.
        source: the file, for messages.
        target: the folder, which appears whole or not at all.
        tokenizer: folder or hub id of a tokenizer to put there.
        head_channels: see :class:`MVDreamFile`.

    Returns:
        What a user should know of the result, in sentences.
    """
    model = MVDreamFile(state, source, head_channels=head_channels)
    index: dict[str, object] = {
        '_class_name': 'StableDiffusionPipeline',
        'unet': ['diffusers', 'UNet2DConditionModel'],
        'vae': ['diffusers', 'AutoencoderKL'],
        'scheduler': ['diffusers', SCHEDULER['_class_name']],
        'safety_checker': [None, None],
        'feature_extractor': [None, None],
    }
    with atomic_folder(target) as folder, hide_progress_bars():
        parts = {'unet': model.unet, 'vae': model.vae}
        if model.has_text_encoder:
            parts['text_encoder'] = model.text_encoder
            index['text_encoder'] = ['transformers', 'CLIPTextModel']
        for part, load in parts.items():
            network: Any = load()
            network.save_pretrained(folder / part)
        if tokenizer is not None:
            load_tokenizer(tokenizer).save_pretrained(folder / 'tokenizer')
            index['tokenizer'] = ['transformers', 'CLIPTokenizer']
        (folder / 'scheduler').mkdir()
        (folder / 'scheduler' / 'scheduler_config.json').write_text(
            json.dumps(SCHEDULER, indent=2) + '\n', encoding='utf-8'
        )
        (folder / 'model_index.json').write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')
    lacking = [] if model.has_text_encoder else [_NO_TEXT_ENCODER]
    return lacking + ([] if tokenizer or lacking else [_NO_TOKENIZER])
