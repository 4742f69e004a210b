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

"""A Git LFS pointer is named as one wherever a large file is read."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.parts.git_lfs import is_lfs_pointer, refuse_lfs_pointer
from nemo_dreamfusion.parts.safe_load import read_checkpoint

POINTER = f'version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 3438167534\n'


def write_pointer(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POINTER)
    return path


def test_a_pointer_is_told_from_other_files(tmp_path):
    assert is_lfs_pointer(write_pointer(tmp_path / 'a.nemo'))
    (tmp_path / 'long').write_text(POINTER + 'x' * 2000)  # a pointer has at most 1024 bytes
    (tmp_path / 'other').write_text('version 1')
    (tmp_path / 'empty').write_bytes(b'')
    assert not any(is_lfs_pointer(tmp_path / name) for name in ('long', 'other', 'empty', 'none', '.'))


@pytest.mark.parametrize('folder', ['plain', "with space and ' quote"])
def test_the_command_works_in_a_shell(tmp_path, folder):
    path = write_pointer(tmp_path / folder / 'a.bin')
    with refusal(str(path), NO_VALUE, 'lfs pull') as caught:
        refuse_lfs_pointer(path)
    command = str(caught.value).partition('run: ')[2]
    assert shlex.split(command) == ['git', '-C', str(tmp_path / folder), 'lfs', 'pull']


@pytest.mark.parametrize(
    ('read', 'name'),
    [
        (check_archive, 'x.nemo'),
        (lambda path: check_archive(path.parent), 'model_weights.ckpt'),
        (read_checkpoint, 'x-last.ckpt'),
    ],
    ids=['archive', 'unpacked archive', 'checkpoint'],
)
def test_readers_name_it(tmp_path, read, name):
    path = write_pointer(tmp_path / name)
    with refusal(name, NO_VALUE, 'lfs pull'):
        read(path)
