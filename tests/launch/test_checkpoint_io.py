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

"""Checkpoints as files: whole or not there, plain data only, and always a second one."""

import os
import resource

import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.launch import checkpoint_io as checkpoint_files
from nemo_dreamfusion.launch.checkpoint_io import CheckpointNotWritten, SafeCheckpointIO, newest_good, prepare_resume
from nemo_dreamfusion.parts.safe_load import read_checkpoint


class Harmful:
    def __reduce__(self):
        return os.system, ('touch harmed',)


def checkpoint(step):
    return {'state_dict': {'x': torch.arange(2000.0)}, 'global_step': step}


def save(folder, step, last=True):
    path = folder / f'a-step={step}{"-last" if last else ""}.ckpt'
    SafeCheckpointIO().save_checkpoint(checkpoint(step), path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = save(tmp_path, 1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with refusal(str(path), NO_VALUE, 'make room', error=CheckpointNotWritten):
            SafeCheckpointIO().save_checkpoint(checkpoint(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and names(tmp_path) == [path.name]


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {}, 'harm': Harmful()}, 'evil.ckpt')
    with refusal('evil.ckpt', NO_VALUE, 'checkpoint'):
        SafeCheckpointIO().load_checkpoint('evil.ckpt')
    assert names(tmp_path) == ['evil.ckpt']


def test_any_flipped_bit_and_any_cut_is_found(tmp_path):
    path = save(tmp_path, 1)
    whole, good = path.read_bytes(), read_checkpoint(path)
    refused = 0
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert torch.equal(read_checkpoint(path)['state_dict']['x'], good['state_dict']['x'])  # in the padding
        except ValueError:
            refused += 1
        path.write_bytes(whole[:place])
        with refusal(path.name, NO_VALUE, 'checkpoint'):
            read_checkpoint(path)
    assert refused > 0.5 * len(whole) / 97


def test_the_removed_last_one_is_kept_as_the_previous(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
        if step > 1:
            SafeCheckpointIO().remove_checkpoint(tmp_path / f'a-step={step - 1}-last.ckpt')
    assert names(tmp_path) == ['a-step=2-last.ckpt.previous', 'a-step=3-last.ckpt']


def test_a_folder_is_ready_to_resume_from_after_any_end(tmp_path):
    assert prepare_resume(tmp_path / 'none') is None
    (tmp_path / '.a-step=9-last-0123.ckpt').write_bytes(b'half')
    (tmp_path / 'a-step=2-last-unfinished').touch()
    save(tmp_path, 1).rename(tmp_path / 'a-step=1-last.ckpt.previous')
    save(tmp_path, 2)
    newest = save(tmp_path, 10)  # killed before the one before it was put away
    assert prepare_resume(tmp_path) == newest
    assert names(tmp_path) == ['a-step=10-last.ckpt', 'a-step=2-last.ckpt.previous']


def test_damaged_ones_are_set_aside_down_to_the_last_good_one(tmp_path, caplog):
    save(tmp_path, 2).rename(tmp_path / 'a-step=2-last.ckpt.previous')
    for step in (5, 7):
        path = save(tmp_path, step, last=step == 7)
        path.write_bytes(path.read_bytes()[:-100])
    assert prepare_resume(tmp_path) == tmp_path / 'a-step=2-last.ckpt'
    assert names(tmp_path) == ['a-step=2-last.ckpt', 'a-step=5.ckpt.damaged', 'a-step=7-last.ckpt.damaged']
    assert caplog.text.count('set aside') == 2


def test_one_that_another_rank_renames_just_after_it_was_listed_is_found(tmp_path, monkeypatch):
    assert newest_good(tmp_path / 'none') is None
    path, age = save(tmp_path, 2), checkpoint_files._age

    def renamed_meanwhile(listed):
        if path.exists():
            path.rename(tmp_path / f'{path.name}.previous')
        return age(listed)

    monkeypatch.setattr(checkpoint_files, '_age', renamed_meanwhile)
    assert newest_good(tmp_path) == path and names(tmp_path) == [f'{path.name}.previous']
