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

"""The tokenizer of a CLIP text encoder, made to fit the encoder that reads its tokens.

It comes from a folder, from the Hugging Face hub or its cache, or, for OpenAI's own, from an installed package.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from nemo_dreamfusion.checkpoints.clip_vocabulary import (
    INSTALL,
    find_vocabulary,
    is_openai_clip_id,
    tokenizer_from_vocabulary,
)
from nemo_dreamfusion.checkpoints.models import hide_progress_bars
from nemo_dreamfusion.parts.checks import first_line, refuse
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer

SETTING = 'model.guidance.tokenizer'
FILES = ('vocab.json', 'merges.txt', 'tokenizer*.json', 'special_tokens_map.json')


def tokenizer_folder(source: str, *, local_files_only: bool = False) -> Path:
    """Return the folder with the tokenizer's files: ``source``, its folder ``tokenizer``, or a copy from the hub.

    ``source`` may also be a ``tokenizer.json``: its folder is taken.

    Raises:
        ValueError: when there are no such files, with the places to take them from.
    """
    from huggingface_hub import snapshot_download

    try:
        local = Path(source).expanduser()
        if local.name == 'tokenizer.json' and local.is_file():
            local = local.parent
        elif not local.is_dir():
            patterns = [f'{folder}{name}' for folder in ('', 'tokenizer/') for name in FILES]
            local = Path(snapshot_download(source, allow_patterns=patterns, local_files_only=local_files_only))
        local = local / 'tokenizer' if (local / 'tokenizer').is_dir() else local
        if not any((local / name).is_file() for name in ('tokenizer.json', 'vocab.json')):
            raise FileNotFoundError('it holds no vocab.json')
    except Exception as error:  # of the hub, the network or the disk
        raise ValueError(_cannot_load(source, error)) from error
    for file in _files_in(local):
        refuse_lfs_pointer(file)
    return local


def load_tokenizer(source: str, *, local_files_only: bool = False) -> Any:
    """Return the CLIPTokenizer of a folder that holds its files (or a folder ``tokenizer`` with them), or of a hub id.

    OpenAI's own is taken from the hub's cache, or else from an installed package, before the hub is asked.

    Raises:
        ValueError: when there is none, with the places to take it from.
    """
    from transformers import CLIPTokenizer

    vocabulary = _installed_vocabulary(source)
    if vocabulary is not None:
        return tokenizer_from_vocabulary(vocabulary)
    local = tokenizer_folder(source, local_files_only=local_files_only)
    try:
        return CLIPTokenizer.from_pretrained(local)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and json's own alike
        raise ValueError(_cannot_load(source, error)) from error


def read_tokenizer(folder: Path, name: str, advice: str, *, is_clip: bool) -> Any:
    """Return the tokenizer whose files a folder holds, ``tokenizer.json`` alone or the older ones.

    Args:
        folder: of its files.
        name: what it is, for messages.
        advice: a sentence for the end of a message.
        is_clip: whether a CLIP text encoder reads its tokens, and not a language model.
    """
    from transformers import AutoTokenizer, CLIPTokenizer

    try:
        with hide_progress_bars():
            return (CLIPTokenizer if is_clip else AutoTokenizer).from_pretrained(folder)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and json's own alike
        reason = f'Cannot load {name} ({first_line(error)})'
        raise ValueError(f'{reason}: its files are damaged or incomplete. {advice}') from error


def tokenizer_identity(source: str) -> Any:
    """Return what tells a tokenizer from others, as plain data: its files' sizes and times, or its id."""
    local = Path(source).expanduser()
    if not local.exists():
        return source
    stats = {path.name: path.stat() for path in _files_in(tokenizer_folder(source))}
    return {name: [found.st_size, found.st_mtime_ns] for name, found in stats.items()}


def tokenizer_files(source: str) -> dict[str, bytes]:
    """Return the files of a tokenizer by their names; the arguments and errors are those of :func:`load_tokenizer`."""
    vocabulary = _installed_vocabulary(source)
    if vocabulary is None:
        return {path.name: path.read_bytes() for path in _files_in(tokenizer_folder(source))}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_from_vocabulary(vocabulary).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in _files_in(Path(folder))}


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if any(path.match(name) for name in FILES))


def _installed_vocabulary(source: str) -> Path | None:
    """Return the installed vocabulary of OpenAI's CLIP; None for another source, or where the hub's cache holds it."""
    if not is_openai_clip_id(source) or Path(source).expanduser().exists():
        return None
    try:
        tokenizer_folder(source, local_files_only=True)
    except ValueError:
        return find_vocabulary()
    return None


def _cannot_load(source: str, error: Exception) -> str:
    message = f'Cannot load the tokenizer of {source!r} ({first_line(error)}). '
    if is_openai_clip_id(source):
        from huggingface_hub.constants import HF_HUB_CACHE

        message += (
            f'Without a network it is taken from the package open_clip_torch ({INSTALL}; its dependencies are not needed) '
            f'or from the cache of the hub, {HF_HUB_CACHE}: '
            f'copy there what a machine with a network gets by: hf download {source} vocab.json merges.txt -- '
        )
    return message + (
        'Set model.guidance.tokenizer (or tokenizer=) to a folder with vocab.json and merges.txt, to a tokenizer.json, '
        'or to a hub id.'
    )


def fit_to_encoder(tokenizer: Any, *, tokens: int | None, vocabulary: int | None, name: str) -> Any:
    """Return the tokenizer with the length of its encoder, whatever its own files say (two of them alone say nothing).

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
