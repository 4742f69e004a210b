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

"""Which safetensors files hold the weights of a part: plain or of a variant such as fp16, whole or in shards."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from nemo_dreamfusion.checkpoints.repository import Repository

STEMS = {
    **dict.fromkeys(('unet', 'transformer', 'vae'), 'diffusion_pytorch_model'),
    **dict.fromkeys(('text_encoder', 'text_encoder_2', 'text_encoder_3'), 'model'),
}
PICKLED = ('.bin', '.ckpt', '.pt', '.pth')


@dataclass
class StoredVariant:
    """The weight files of one variant of a part.

    whole: the one file that holds all; None where there is none.
    shards: by their total number, the shards by their number.
    index: the file that says which shard holds which tensor.
    """

    whole: str | None = None
    shards: dict[int, dict[int, str]] = field(default_factory=dict)
    index: str | None = None


def find_variants(names: Iterable[str], part: str) -> dict[str | None, StoredVariant]:
    """Return the variants of a part by their names, None for the plain files.

    >>> sorted(find_variants(['unet/diffusion_pytorch_model.fp16.safetensors'], 'unet'))
    ['fp16']
    """
    stem = rf'{part}/{STEMS[part]}'
    weights = re.compile(rf'{stem}(?:\.([\w-]+?))?(?:-(\d+)-of-(\d+))?(?:\.([\w-]+))?\.safetensors')
    indices = re.compile(rf'{stem}(?:\.([\w-]+))?\.safetensors\.index(?:\.([\w-]+))?\.json')
    found: dict[str | None, StoredVariant] = {}
    for name in names:
        if match := weights.fullmatch(name):
            before, number, total, after = match.groups()
            stored = found.setdefault(before or after, StoredVariant())
            if total is None:
                stored.whole = name
            else:
                stored.shards.setdefault(int(total), {})[int(number)] = name
        elif match := indices.fullmatch(name):
            found.setdefault(match[1] or match[2], StoredVariant()).index = name
    return found


def choose_variant(repository: Repository, part: str, asked: str | None, setting: str | None) -> str | None:
    """Return the variant to read: the one that was asked for, or else the plain files, or else the only one there is.

    Of a model whose parts are not all there in the variant that was asked for, the other parts' plain files are read, as
    diffusers does.

    Args:
        repository: the model.
        part: ``unet``, ``vae`` or ``text_encoder``.
        asked: the variant; None where none was asked for.
        setting: what the user sets to ask for one; None where there is no such setting.

    Raises:
        ValueError: when the part has no weights, or not in the variant that was asked for, or in several of which none is
            plain; with the variants that there are.
    """
    found = find_variants(repository.names, part)
    if not found:
        cure = f'{how_to_convert(repository)}{repository.advice}'
        raise ValueError(f'{repository.name!r} lacks {describe_missing(repository, part)}. {cure}')
    if asked in found:
        return asked
    if asked is not None:
        anywhere = {variant for other in STEMS for variant in find_variants(repository.names, other)}
        if asked not in anywhere or None not in found:
            problem = f'{setting or "variant"} = {asked!r}, and {part} of {repository.name!r} has no such files'
            raise ValueError(f'{problem}; it has {_list_variants(found)}. {_say_how(found, setting)}')
    if None in found:
        return None
    if len(found) > 1:
        problem = f'{part} of {repository.name!r} has no plain weights, and several variants of them'
        raise ValueError(f'{problem}: {_list_variants(found)}. {_say_how(found, setting)}')
    return next(iter(found))


def weight_files(repository: Repository, part: str, variant: str | None) -> list[str]:
    """Return the files that together hold all weights of a variant of a part.

    Raises:
        ValueError: when a shard lacks, with its name.
    """
    stored = find_variants(repository.names, part)[variant]
    if stored.index is not None:
        mapping = repository.read_json(stored.index).get('weight_map')
        if not isinstance(mapping, dict) or not mapping:
            raise ValueError(f'{stored.index} of {repository.name!r} names no files. {repository.advice}')
        wanted = sorted({f'{part}/{name}' for name in mapping.values()})
    elif stored.whole is not None:
        return [stored.whole]
    else:
        total, shards = max(stored.shards.items(), key=lambda item: len(item[1]) / item[0])
        pattern = next(iter(shards.values()))
        wanted = [re.sub(r'-\d+-of-', f'-{number:05d}-of-', pattern) for number in range(1, total + 1)]
    missing = [name for name in wanted if name not in repository.names]
    if missing:
        raise ValueError(
            f'{part} of {repository.name!r} is in {len(wanted)} files, and {", ".join(missing)} lacks: download it again. '
            f'{repository.advice}'
        )
    return wanted


def read_weights(repository: Repository, part: str, variant: str | None) -> dict[str, Tensor]:
    """Return all tensors of a variant of a part, as they are stored.

    Raises:
        ValueError: when a file lacks, is damaged or is a Git LFS pointer, or when two files hold the same tensor.
    """
    tensors: dict[str, Tensor] = {}
    files = weight_files(repository, part, variant)
    for name, found in zip(files, repository.load(files)):
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise ValueError(
                f'{name} of {repository.name!r} holds {twice[0]}, which another file of {part} holds too.'
            )
        tensors |= found
    return tensors


def describe_missing(repository: Repository, part: str) -> str:
    """Return what a part without weights lacks, and what it has in their place."""
    wanted = f'{part}/{STEMS[part]}.safetensors'
    there = [name for name in repository.names if name.startswith(f'{part}/')]
    pickled = [name for name in there if name.endswith(PICKLED)]
    others = [name for name in there if name.endswith(('.safetensors', '.gguf', '.msgpack', '.onnx', '.h5'))]
    if pickled and not others:
        return f'{wanted} ({pickled[0]} is pickled, and pickled weights are not read)'
    return f'{wanted} (it has {others[0]})' if others else wanted


def how_to_convert(repository: Repository) -> str:
    """Return a sentence with the command that writes each .bin file as safetensors beside it; empty without such files."""
    if not any(name.partition('/')[0] in STEMS and name.endswith('.bin') for name in repository.names):
        return ''
    name = repository.name if repository.is_local else repository.name.rpartition('/')[2]
    code = (
        'import torch; from pathlib import Path; from safetensors.torch import save_file; '
        '[save_file({k: v.clone().contiguous() for k, v in torch.load(p, map_location="cpu", weights_only=True).items()}, '
        'p.with_name(p.name.removeprefix("pytorch_")).with_suffix(".safetensors"), metadata={"format": "pt"}) '
        f'for part in {json.dumps(list(STEMS))} for p in Path({json.dumps(name)}, part).glob("*.bin")]'
    )
    command = f'python -c {shlex.quote(code)}'
    if not repository.is_local:
        fetch = shlex.join(['hf', 'download', repository.name, '--local-dir', name])
        return f'To write its .bin files as safetensors into the folder {name}: {fetch} && {command} . '
    return f'To write its .bin files as safetensors: {command} . '


def _list_variants(found: Iterable[str | None]) -> str:
    return ', '.join(sorted('the plain files' if variant is None else variant for variant in found))


def _say_how(found: Iterable[str | None], setting: str | None) -> str:
    if setting is None:
        return 'Leave the files of one variant there, and move the others away.'
    choices = ['null' if variant is None else variant for variant in sorted(found, key=str)]
    return 'Set ' + ' or '.join(f'{setting}={choice}' for choice in choices) + '.'
