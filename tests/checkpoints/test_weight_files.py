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

"""Weights in variants and shards: what is there is taken or named, and never a part of a model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from refusals import NO_VALUE, refusal
from safetensors.torch import load_file, save_file

from nemo_dreamfusion.checkpoints import weight_files
from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.weight_files import find_variants

STEMS = {part: weight_files.STEMS[part] for part in ('unet', 'vae', 'text_encoder')}

SETTING = 'model.guidance.variant'


@pytest.fixture
def folder(sd_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd_folder, tmp_path / 'sd'))


def plain(folder: Path, part: str) -> Path:
    return folder / part / f'{STEMS[part]}.safetensors'


def add_variant(
    folder: Path, part: str, variant: str = 'fp16', *, keep_plain: bool = False, scale: float = 1.0
) -> None:
    """Write a part's weights in float16 under a variant's name."""
    file = plain(folder, part)
    tensors = {key: (value * scale).half() for key, value in load_file(file).items()}
    save_file(tensors, file.with_name(f'{STEMS[part]}.{variant}.safetensors'), metadata={'format': 'pt'})
    if not keep_plain:
        file.unlink()


def shard(file: Path, names: list[str], index: str | None = None) -> dict[str, torch.Tensor]:
    """Replace a weight file by shards of the given names, with an index of its own where one is named."""
    tensors = load_file(file)
    keys = [sorted(tensors)[i :: len(names)] for i in range(len(names))]
    for name, part in zip(names, keys):
        save_file({key: tensors[key] for key in part}, file.with_name(name), metadata={'format': 'pt'})
    if index is not None:
        mapping = {key: name for name, part in zip(names, keys) for key in part}
        file.with_name(index).write_text(json.dumps({'metadata': {}, 'weight_map': mapping}), encoding='utf-8')
    file.unlink()
    return tensors


def open_folder(folder: Path, variant: str | None = None) -> DiffusersCheckpoint:
    return DiffusersCheckpoint(str(folder), variant=variant, variant_setting=SETTING)


# --- variants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('parts', [tuple(STEMS), ('unet',), ('vae', 'text_encoder')])
@pytest.mark.parametrize('asked', [None, 'fp16'])
def test_the_only_files_of_a_part_are_taken(folder, parts, asked):
    wanted = {part: load_file(plain(folder, part)) for part in STEMS}
    for part in parts:
        add_variant(folder, part)
    checkpoint = open_folder(folder, asked)
    checkpoint.check()
    for part in STEMS:
        found = getattr(checkpoint, part)(None).state_dict()
        kept = {k: v for k, v in wanted[part].items() if not k.endswith('position_ids')}
        assert len(found) == len(kept)
        for key, value in kept.items():
            expected = value.half() if part in parts else value
            assert torch.equal(found[key], expected) and found[key].dtype == expected.dtype


def test_plain_files_are_taken_unless_a_variant_is_asked_for(folder):
    before = load_file(plain(folder, 'unet'))['conv_in.bias']
    add_variant(folder, 'unet', 'fp16', keep_plain=True, scale=2.0)
    assert torch.equal(open_folder(folder).tensors('unet')['conv_in.bias'], before)
    assert torch.equal(open_folder(folder, 'fp16').tensors('unet')['conv_in.bias'], (before * 2).half())
    assert torch.equal(open_folder(folder, 'fp16').tensors('vae')['encoder.conv_in.bias'].float(),
                       load_file(plain(folder, 'vae'))['encoder.conv_in.bias'])  # fmt: skip


def test_several_variants_without_a_plain_one_are_named(folder):
    add_variant(folder, 'unet', 'non_ema', keep_plain=True)
    add_variant(folder, 'unet', 'fp16')
    with refusal('unet', NO_VALUE, f'{SETTING}=fp16', f'{SETTING}=non_ema'):
        open_folder(folder).check()
    open_folder(folder, 'fp16').check()
    with refusal('unet', NO_VALUE, 'variant=fp16', 'variant=non_ema'):
        convert(str(folder), str(folder.parent / 'x.nemo'))
    convert(str(folder), str(folder.parent / 'x.nemo'), variant='non_ema')
    with refusal('unet', NO_VALUE, 'fp16', 'non_ema'):
        DiffusersCheckpoint(str(folder)).check()


def test_a_variant_that_no_part_has_is_refused_with_those_there_are(folder):
    with refusal(SETTING, 'bf16', f'{SETTING}=null'):
        open_folder(folder, 'bf16').check()
    add_variant(folder, 'unet')
    with refusal(SETTING, 'bf16', f'{SETTING}=fp16'):
        open_folder(folder, 'bf16').check()


@pytest.mark.parametrize('suffix', ['bin', 'fp16.bin'])
def test_pickled_weights_are_named(folder, suffix):
    plain(folder, 'unet').rename(folder / 'unet' / f'{STEMS["unet"]}.{suffix}')
    with refusal('unet/diffusion_pytorch_model.safetensors', NO_VALUE, f'unet/diffusion_pytorch_model.{suffix}'):
        open_folder(folder).check()


def test_the_command_that_is_named_for_pickled_weights_works_when_it_is_pasted(folder):
    stored = {part: load_file(plain(folder, part)) for part in STEMS}
    for part, stem in STEMS.items():
        torch.save(stored[part], folder / part / f'{"pytorch_" if stem == "model" else ""}{stem}.bin')
        plain(folder, part).unlink()
    with refusal('unet/diffusion_pytorch_model.safetensors', NO_VALUE, 'python -c') as caught:
        open_folder(folder).check()
    command = re.search(r"python -c '.*'", str(caught.value))[0].replace('python', shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, check=True, timeout=120)
    open_folder(folder).check()
    for part in STEMS:
        read = load_file(plain(folder, part))
        assert read.keys() == stored[part].keys() and all(torch.equal(read[k], v) for k, v in stored[part].items())


def test_weights_of_another_name_are_named(folder):
    plain(folder, 'unet').rename(folder / 'unet' / 'my_unet.safetensors')
    with refusal('unet/diffusion_pytorch_model.safetensors', NO_VALUE, 'unet/my_unet.safetensors'):
        open_folder(folder).check()


# --- shards -------------------------------------------------------------------------------------------------------

SHARDS = {
    'plain': ('{}-0000{}-of-00003.safetensors', '{}.safetensors.index.json'),
    'variant': ('{}.fp16-0000{}-of-00003.safetensors', '{}.safetensors.index.fp16.json'),
    'variant of 2023': ('{}-0000{}-of-00003.fp16.safetensors', '{}.safetensors.index.fp16.json'),
}


@pytest.mark.parametrize('part', STEMS)
@pytest.mark.parametrize('kind', SHARDS)
@pytest.mark.parametrize('indexed', [True, False], ids=['index', 'no index'])
def test_all_shards_are_read(folder, part, kind, indexed):
    names, index = (pattern.format(STEMS[part], '{}') for pattern in SHARDS[kind])
    wanted = shard(plain(folder, part), [names.format(i) for i in (1, 2, 3)], index if indexed else None)
    checkpoint = open_folder(folder)
    checkpoint.check()
    found = checkpoint.tensors(part)
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize('kind', SHARDS)
@pytest.mark.parametrize('indexed', [True, False], ids=['index', 'no index'])
def test_a_missing_shard_is_named_before_anything_is_read(folder, kind, indexed):
    names, index = (pattern.format(STEMS['unet'], '{}') for pattern in SHARDS[kind])
    shard(plain(folder, 'unet'), [names.format(i) for i in (1, 2, 3)], index if indexed else None)
    (folder / 'unet' / names.format(2)).unlink()
    with refusal('unet', NO_VALUE, f'unet/{names.format(2)}'):
        open_folder(folder).check()
    with refusal('unet', NO_VALUE, f'unet/{names.format(2)}'):
        convert(str(folder), str(folder.parent / 'x.nemo'))
    assert not (folder.parent / 'x.nemo').exists()


def test_an_index_counts_where_shards_of_another_save_lie_beside(folder):
    names = [f'{STEMS["unet"]}-0000{i}-of-00002.safetensors' for i in (1, 2)]
    wanted = shard(plain(folder, 'unet'), names, f'{STEMS["unet"]}.safetensors.index.json')
    stale = {'conv_in.bias': torch.zeros(16)}
    save_file(stale, folder / 'unet' / f'{STEMS["unet"]}-00001-of-00003.safetensors', metadata={'format': 'pt'})
    assert torch.equal(open_folder(folder).tensors('unet')['conv_in.bias'], wanted['conv_in.bias'])


def test_a_sharded_variant_survives_the_way_to_nemo_and_back(folder, tmp_path):
    add_variant(folder, 'unet')
    names, index = (pattern.format(STEMS['unet'], '{}') for pattern in SHARDS['variant'])
    wanted = shard(folder / 'unet' / f'{STEMS["unet"]}.fp16.safetensors', [names.format(i) for i in (1, 2, 3)], index)
    convert(str(folder), str(tmp_path / 'x.nemo'))
    convert(str(tmp_path / 'x.nemo'), str(tmp_path / 'back'))
    found = load_file(plain(tmp_path / 'back', 'unet'))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) and found[key].dtype == torch.float16 for key in wanted)


# --- every tensor is there, and no other -----------------------------------------------------------------------------


@pytest.mark.parametrize('part', STEMS)
@pytest.mark.parametrize('change', ['missing', 'left over', 'other shape'])
def test_half_a_model_is_neither_read_nor_converted(folder, part, change):
    tensors = load_file(plain(folder, part))
    key = sorted(tensors)[3]
    if change == 'missing':
        del tensors[key]
    else:
        key = 'something.weight' if change == 'left over' else key
        tensors[key] = torch.zeros(3, 1)
    save_file(tensors, plain(folder, part), metadata={'format': 'pt'})
    with refusal(key, NO_VALUE, part):
        getattr(open_folder(folder), part)(torch.float32)
    with refusal(key, NO_VALUE, part):
        convert(str(folder), str(folder.parent / 'x.nemo'))
    assert not (folder.parent / 'x.nemo').exists()


def test_what_no_guidance_reads_of_a_text_encoder_may_be_left_over(folder):
    tensors = {f'text_model.{key}': value for key, value in load_file(plain(folder, 'text_encoder')).items()}
    tensors['text_model.embeddings.position_ids'] = torch.arange(16)[None]
    tensors['text_projection.weight'] = torch.zeros(16, 16)
    save_file(tensors, plain(folder, 'text_encoder'), metadata={'format': 'pt'})
    open_folder(folder).text_encoder(torch.float32)


@pytest.mark.parametrize('part', STEMS)
def test_git_lfs_pointers_are_named(folder, part):
    plain(folder, part).write_text(
        f'version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 3438167534\n'
    )
    with refusal(f'{STEMS[part]}.safetensors', NO_VALUE, 'lfs pull'):
        open_folder(folder).check()
    with refusal(f'{STEMS[part]}.safetensors', NO_VALUE, 'lfs pull'):
        convert(str(folder), str(folder.parent / 'x.nemo'))


@pytest.mark.parametrize('name', ['unet/config.json', 'tokenizer/tokenizer.json', 'scheduler/scheduler_config.json'])
def test_git_lfs_pointers_of_small_files_are_named(folder, name):
    (folder / name).write_text(f'version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 12345\n')
    with refusal(name.rpartition('/')[2], NO_VALUE, 'lfs pull'):
        open_folder(folder).check()
        open_folder(folder).tokenizer()


def test_names_are_read_as_diffusers_and_transformers_write_them():
    names = [
        'vae/diffusion_pytorch_model.safetensors', 'vae/diffusion_pytorch_model.fp16.safetensors',
        'vae/diffusion_pytorch_model.non_ema.safetensors', 'vae/pytorch_lora_weights.safetensors',
        'unet/diffusion_pytorch_model.bf16.safetensors', 'vae/diffusion_pytorch_model.bin',
    ]  # fmt: skip
    assert set(find_variants(names, 'vae')) == {None, 'fp16', 'non_ema'}
    assert set(find_variants(names, 'text_encoder')) == set()
