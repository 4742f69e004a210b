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

"""The tokenizer of a CLIP text encoder: from its files or the hub, made to fit the encoder that reads its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_dreamfusion.parts.checks import first_line, refuse

FILES = ('vocab.json', 'merges.txt', 'tokenizer*.json', 'special_tokens_map.json')


def tokenizer_folder(source: str, *, local_files_only: bool = False) -> Path:
    """The local folder with the tokenizer's files: ``source`` itself, its folder ``tokenizer``, or a copy from the hub."""
    from huggingface_hub import snapshot_download

    try:
        local = Path(source).expanduser()
        if not local.is_dir():
            patterns = [f'{folder}{name}' for folder in ('', 'tokenizer/') for name in FILES]
            local = Path(snapshot_download(source, allow_patterns=patterns, local_files_only=local_files_only))
        local = local / 'tokenizer' if (local / 'tokenizer').is_dir() else local
        if not any((local / name).is_file() for name in ('tokenizer.json', 'vocab.json')):
            raise FileNotFoundError('it holds no vocab.json')
    except Exception as error:  # of the hub, the network or the disk
        raise ValueError(_cannot_load(source, error)) from error
    return local


def tokenizer_files(source: str) -> dict[str, bytes]:
    """Return the files of a tokenizer by their names."""
    local = tokenizer_folder(source)
    files = sorted(path for path in local.iterdir() if any(path.match(name) for name in FILES))
    return {path.name: path.read_bytes() for path in files}


def load_tokenizer(source: str, *, local_files_only: bool = False) -> Any:
    """A CLIPTokenizer from a folder that holds its files (or a folder ``tokenizer`` with them), or from a hub id."""
    from transformers import CLIPTokenizer

    local = tokenizer_folder(source, local_files_only=local_files_only)
    try:
        return CLIPTokenizer.from_pretrained(local)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and json's own alike
        raise ValueError(_cannot_load(source, error)) from error


def _cannot_load(source: str, error: Exception) -> str:
    return (
        f'Cannot load the tokenizer of {source!r} ({first_line(error)}). '
        'Set model.guidance.tokenizer (or tokenizer=) to a folder with vocab.json and merges.txt, or to a hub id.'
    )


def fitted(tokenizer: Any, *, tokens: int | None, vocabulary: int | None, name: str) -> Any:
    """The tokenizer with the length of its encoder, whatever its own files say (two of them alone say nothing).

    Args:
        tokenizer: a CLIPTokenizer, changed in place.
        tokens: positions of the encoder; None where they are not known yet.
        vocabulary: rows of its embedding; likewise.
        name: whose encoder, for the message.

    Raises:
        ValueError: when it has tokens that the encoder has no row for.
    """
    if tokens is not None:
        tokenizer.model_max_length = tokens
    largest = max(tokenizer.get_vocab().values())
    if vocabulary is not None and largest >= vocabulary:
        refuse(
            f'the tokenizer of {name!r}',
            f'{largest + 1} tokens',
            f"one of at most {vocabulary} tokens, the rows of the text encoder's embedding",
            'Set model.guidance.tokenizer (or tokenizer=) to the one that the weights were trained with.',
        )
    return tokenizer
