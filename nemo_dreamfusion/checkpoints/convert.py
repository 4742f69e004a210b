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

"""Stable Diffusion archives of NeMo to folders in diffusers' format, and back. Tensors keep their values and types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_dreamfusion.checkpoints import nemo_config, nemo_keys, nemo_text
from nemo_dreamfusion.checkpoints.convert_file import file_to_folder, open_file
from nemo_dreamfusion.checkpoints.convert_mvdream import mvdream_to_folder
from nemo_dreamfusion.checkpoints.diffusers_format import (
    BESIDE,
    CLASSES,
    CLIP_DEFAULTS,
    CONFIGS,
    DiffusersCheckpoint,
)
from nemo_dreamfusion.checkpoints.models import build_empty, build_model, hide_progress_bars
from nemo_dreamfusion.checkpoints.mvdream_file import is_mvdream, read_tensors
from nemo_dreamfusion.checkpoints.nemo_archive import write_archive
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.checkpoints.noise_schedule import make_nemo_buffers
from nemo_dreamfusion.checkpoints.tokenizers import tokenizer_files
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import atomic_folder

_CLASSES = {
    'unet': ['diffusers', 'UNet2DConditionModel'],
    'vae': ['diffusers', 'AutoencoderKL'],
    'text_encoder': ['transformers', 'CLIPTextModel'],
    'tokenizer': ['transformers', 'CLIPTokenizer'],
    'scheduler': ['diffusers', 'DDIMScheduler'],
    'safety_checker': [None, None],
    'feature_extractor': [None, None],
}


def convert(
    source: str,
    target: str,
    *,
    tokenizer: str | None = None,
    variant: str | None = None,
    context_length: int | str | None = 'auto',
    unnormalised_kv: bool = False,
    head_channels: int | None = None,
    force: bool = False,
) -> list[str]:
    """Convert whichever way ``target`` asks for: a name that ends in ``.nemo``, or a folder.

    Args:
        source: a ``.nemo`` file, a whole model in one file of the original layout, a ``.pt`` file of MVDream, a folder in
            diffusers' format, a hub id, or ``pocket``.
        target: a ``.nemo`` file or a folder.
        tokenizer: folder or hub id of a tokenizer to put beside weights that come without one.
        variant: of a folder: the infix of the weight files to read, such as ``fp16``; None takes the plain files, or the
            only variant that there is.
        context_length: tokens to which text embeddings are padded with zeros, which the target will say: ``auto`` keeps what
            the source says (NeMo's own archives pad 77 to 80, folders say nothing), None pads nothing.
        unnormalised_kv: of an archive of NeMo v1.23 whose weights v1.23 trained: let the folder say so.
        head_channels: of MVDream: channels of an attention head, where they are not those of the published files.
        force: replace a target that exists.

    Returns:
        What a user should know of the result, in sentences.
    """
    is_one_file = Path(source).is_file() and not str(source).endswith('.nemo')
    if is_one_file:
        _check_options_of_a_file(target, variant, context_length, unnormalised_kv)
        state = read_tensors(Path(source)) if Path(source).suffix in ('.pt', '.pth', '.ckpt') else {}
        if is_mvdream(state):
            if str(target).endswith('.nemo'):
                raise ValueError(
                    f'target={str(target)!r}: of an MVDream, source={source!r}, only a folder can be made.'
                )
            where = _free_target(target, force)
            return mvdream_to_folder(state, source, where, tokenizer=tokenizer, head_channels=head_channels)
    if head_channels is not None:
        refuse('head_channels', head_channels, 'left out where source is no .pt file of MVDream')
    if is_one_file and not str(target).endswith('.nemo'):
        checkpoint = open_file(source, tokenizer)
        return file_to_folder(checkpoint, _free_target(target, force), tokenizer=tokenizer)
    from_nemo, to_nemo = (str(path).endswith('.nemo') for path in (source, target))
    if from_nemo == to_nemo:
        raise ValueError(
            f'source={source!r}, target={target!r}: one of them must be a .nemo file and the other a folder in '
            "diffusers' format."
        )
    nemo_config.check_context_length('context_length', context_length)
    if to_nemo and unnormalised_kv:
        refuse('unnormalised_kv', unnormalised_kv, 'left out where source is no .nemo archive')
    if from_nemo and variant is not None:
        refuse('variant', variant, 'left out where source is a .nemo archive')
    where = _free_target(target, force)
    if to_nemo:
        return folder_to_nemo(source, where, tokenizer=tokenizer, variant=variant, context_length=context_length)
    # None for False: the notes below say what the archive's own warning would
    archive = NemoCheckpoint(
        source, tokenizer=tokenizer, context_length=context_length, unnormalised_kv=unnormalised_kv or None
    )
    return nemo_to_folder(archive, where, tokenizer=tokenizer)


def _check_options_of_a_file(
    target: str, variant: str | None, context_length: int | str | None, unnormalised_kv: bool
) -> None:
    """Refuse what is without effect where the source is one file, and no archive."""
    if variant is not None:
        refuse('variant', variant, 'left out where source is one file')
    if unnormalised_kv:
        refuse('unnormalised_kv', unnormalised_kv, 'left out where source is no .nemo archive')
    if context_length not in ('auto', None) and not str(target).endswith('.nemo'):
        refuse('context_length', context_length, 'left out where a folder is made of one file')


def _free_target(target: str, force: bool) -> Path:
    """Return the path of the target; ValueError where something is there that may not be replaced."""
    where = Path(target).expanduser()
    if where.exists() and not force and not (where.is_dir() and not any(where.iterdir())):
        raise ValueError(
            f'target={str(target)!r} exists already. Choose another name, or set force=true to replace it.'
        )
    return where


def nemo_to_folder(checkpoint: NemoCheckpoint, target: Path, *, tokenizer: str | None = None) -> list[str]:
    """Write ``unet/``, ``vae/``, ``text_encoder/``, ``scheduler/`` and, where there is one, ``tokenizer/``.

    What diffusers has no place for, padding and attention as NeMo did them, is said in ``nemo_dreamfusion.json``.
    """
    beside = {'context_length': checkpoint.context_length(), 'unnormalised_kv': checkpoint.attends_unnormalised()}
    notes: list[str] = []
    if nemo_keys.find_vintage(checkpoint.parts['unet']) == 'v1.23' and not beside['unnormalised_kv']:
        notes.append(
            'The archive is of NeMo v1.23, whose self-attention took un-normalised keys and values, and the folder does not '
            'say so: for weights that v1.23 itself trained, convert with unnormalised_kv=true.'
        )
    padded = beside['context_length']
    if beside['unnormalised_kv'] or padded not in (None, checkpoint.text_config()['max_position_embeddings']):
        said = [f'text embeddings are padded to {padded} tokens'] if padded else []
        said += ['self-attention takes un-normalised keys and values'] if beside['unnormalised_kv'] else []
        notes.append(
            f"As in NeMo, {' and '.join(said)}: {BESIDE} tells this package, diffusers itself will not do it."
        )
    else:
        beside = {}
    with atomic_folder(target) as folder:
        for part in ('unet', 'vae', 'text_encoder'):
            with hide_progress_bars():
                getattr(checkpoint, part)(None).save_pretrained(folder / part)
        scheduler = checkpoint.scheduler_config()
        _write_json(folder / 'scheduler' / 'scheduler_config.json', scheduler)
        has_tokenizer = _write_tokenizer(checkpoint, folder / 'tokenizer', tokenizer)
        if not has_tokenizer:
            notes.append(
                'The archive holds no tokenizer: set tokenizer=<folder or hub id> to put one beside the weights.'
            )
        index = {part: names for part, names in _CLASSES.items() if part != 'tokenizer' or has_tokenizer}
        index['scheduler'] = ['diffusers', scheduler.get('_class_name', 'DDIMScheduler')]
        _write_json(folder / 'model_index.json', {'_class_name': 'StableDiffusionPipeline', **index})
        if beside:
            _write_json(folder / BESIDE, beside)
    return notes


def _write_tokenizer(checkpoint: NemoCheckpoint, folder: Path, given: str | None) -> bool:
    """Write the archive's own files as they are, or the tokenizer that was given; return False where there is neither."""
    files = checkpoint.files('tokenizer')
    if given is None and not files:
        return False
    folder.mkdir(parents=True)
    if given is None:
        for name, content in files.items():
            (folder / Path(name).name).write_bytes(content)
    else:
        checkpoint.tokenizer().save_pretrained(folder)
    return True


def folder_to_nemo(
    source: str,
    target: Path,
    *,
    tokenizer: str | None = None,
    variant: str | None = None,
    context_length: int | str | None = 'auto',
) -> list[str]:
    """Write NeMo's layout of v2.0 to v2.4, with a FrozenCLIP text encoder, and the tokenizer's files in ``tokenizer/``.

    Raises:
        ValueError: when the folder is no whole Stable Diffusion, or NeMo's layout has no name for one of its tensors.
    """
    checkpoint = DiffusersCheckpoint(source, variant=variant, setting='source', variant_setting='variant')
    checkpoint.check(tuple(CONFIGS))
    configs = {part: _complete_config(checkpoint, part) for part in CONFIGS}
    state = {f'model.{key}': value for key, value in _nemo_state(checkpoint, configs).items()}
    files = checkpoint.tokenizer_files() if tokenizer is None else tokenizer_files(tokenizer)
    tokens = configs['text_encoder']['max_position_embeddings']
    chosen = checkpoint.context_length() if context_length == 'auto' else context_length
    padded = nemo_config.check_context_length('context_length', chosen, tokens)
    config = nemo_config.nemo_config(configs, tokens, padded, checkpoint.attends_unnormalised())
    write_archive(target, config, state, {f'tokenizer/{name}': content for name, content in files.items()})
    notes = []
    beyond = nemo_config.find_beyond_nemo(configs)
    if beyond:
        notes.append(
            f"NeMo's own classes cannot hold {', '.join(beyond)}: the archive is for model/guidance=sd_nemo only."
        )
    if not files:
        notes.append('The folder holds no tokenizer: set tokenizer=<folder or hub id> to put one into the archive.')
    return notes


def _complete_config(checkpoint: DiffusersCheckpoint, part: str) -> dict[str, Any]:
    """Return a part's configuration, with diffusers' own values for the keys that its file leaves out."""
    config = checkpoint.stored_config(part)
    if part == 'scheduler':
        return config
    if part == 'text_encoder':
        return {**CLIP_DEFAULTS, **config}
    network: Any = build_empty(CLASSES[part], config, f'{part} of {checkpoint.name!r}')
    made = json.loads(network.to_json_string())
    return {key: value for key, value in {**made, **config}.items() if not key.startswith('_')}


def _nemo_state(checkpoint: DiffusersCheckpoint, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return all tensors under NeMo's names; every tensor of the networks is there, and no other."""
    unet, vae = configs['unet'], configs['vae']
    attends = {i: kind.startswith('CrossAttn') for i, kind in enumerate(unet['up_block_types'])}
    state: dict[str, Tensor] = {}
    for part in CLASSES:
        tensors = checkpoint.tensors(part)
        where = f'{part} of {checkpoint.name!r}'
        build_model(CLASSES[part], configs[part], tensors, None, where)  # whole, or refused
        if part == 'unet':
            named = _rename(
                tensors, lambda key: nemo_keys.to_nemo_unet_key(key, unet['layers_per_block'], attends), where
            )
        elif part == 'vae':
            named = _rename(tensors, lambda key: nemo_keys.to_nemo_vae_key(key, len(vae['block_out_channels'])), where)
            named = {name: nemo_keys.to_nemo_vae_tensor(name, value) for name, value in named.items()}
        else:
            named = nemo_text.to_nemo_text_state(tensors)
        state |= {nemo_keys.PARTS[part] + name: value for name, value in named.items()}
    return {**make_nemo_buffers(configs['scheduler']), **state}


def _rename(tensors: Mapping[str, Tensor], rename: Callable[[str], str], where: str) -> dict[str, Tensor]:
    """Return the tensors under other names; ValueError for a tensor that has none there, or shares it with another."""
    named: dict[str, Tensor] = {}
    for key, value in tensors.items():
        try:
            name = rename(key)
        except (KeyError, ValueError, IndexError):
            name = ''
        if not name or name in named:
            raise ValueError(
                f"{where} holds {key}, for which NeMo's layout has no name: it cannot become a .nemo file."
            )
        named[name] = value
    return named


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n', encoding='utf-8')
