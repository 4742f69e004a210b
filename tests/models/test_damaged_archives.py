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

"""Archives from anywhere: damaged or hostile ones are refused in one sentence, and nothing is written or run."""

import io
import os
import tarfile
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import NO_VALUE, refusal
from small_model import small_config

from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.nemo_archive import check_archive

MANY = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


class Harmful:
    def __reduce__(self):
        return os.system, ('touch harmed',)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """An empty folder to work in, which is as empty afterwards but for the archives."""
    folder = tmp_path_factory.mktemp('damaged')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder
    assert sorted(path.name for path in folder.iterdir()) == ['broken.nemo', 'whole.nemo']


@pytest.fixture(scope='module')
def whole(folder):
    """The bytes of a saved model, and its members."""
    torch.manual_seed(0)
    DreamFusion(small_config().model).save_to(str(folder / 'whole.nemo'))
    with tarfile.open(folder / 'whole.nemo') as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}
    return (folder / 'whole.nemo').read_bytes(), members


def contents(path):
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}


@MANY
@given(places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3), bit=st.integers(0, 7))
def test_flipped_bits_are_refused_or_change_nothing_that_is_read(folder, whole, places, bit):
    data = bytearray(whole[0])
    for place in places:
        data[int(place * len(data))] ^= 1 << bit
    (folder / 'broken.nemo').write_bytes(data)
    try:
        check_archive(folder / 'broken.nemo')
    except ValueError as error:
        assert 'broken.nemo' in str(error)
    else:
        assert contents(folder / 'broken.nemo') == whole[1]


@MANY
@given(begin=st.floats(0, 1), length=st.floats(0, 1), junk=st.binary(max_size=40))
def test_cuts_and_insertions_are_refused_or_change_nothing_that_is_read(folder, whole, begin, length, junk):
    data = whole[0]
    start = int(begin * len(data))
    (folder / 'broken.nemo').write_bytes(data[:start] + junk + data[start + int(length * len(data)) :])
    try:
        check_archive(folder / 'broken.nemo')
    except ValueError as error:
        assert 'broken.nemo' in str(error)
    else:
        assert contents(folder / 'broken.nemo') == whole[1]


def packed(path, members, links=()):
    with tarfile.open(path, 'w') as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)


def pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ('added', 'links', 'named', 'way_out'),
    [
        ({'../escape': b'x'}, (), '../escape', 'save_to'),
        ({'/tmp/escape': b'x'}, (), '/tmp/escape', 'save_to'),
        ({}, [('./link', '/etc/passwd')], 'link', 'save_to'),
        ({'./model_weights.ckpt': pickled({'x': Harmful()})}, (), NO_VALUE, 'save_to'),
        ({'./model_weights.ckpt': b'no weights'}, (), NO_VALUE, 'save_to'),
        ({'./model_config.yaml': b'a: [1'}, (), NO_VALUE, 'save_to'),
        ({'./model_config.yaml': b'{}'}, (), NO_VALUE, 'nemo_dreamfusion/conf/dreamfusion.yaml'),
        ({'./model_config.yaml': b'nerf: !!python/object/apply:os.system ["touch harmed"]'}, (), NO_VALUE, 'save_to'),
    ],
)
def test_hostile_archives_of_no_checksums_are_refused(folder, whole, added, links, named, way_out):
    members = {name: data for name, data in whole[1].items() if 'SHA256SUMS' not in name}
    path = folder / 'broken.nemo'
    packed(path, {**members, **added}, links)
    with refusal(str(path), named, way_out):
        DreamFusion.restore_from(str(path), map_location='cpu')
    assert not DreamFusion._is_model_being_restored()


def test_changed_weights_are_found_without_our_checksums_too(folder, whole):
    members = {name: data for name, data in whole[1].items() if 'SHA256SUMS' not in name}
    weights = bytearray(members['./model_weights.ckpt'])
    weights[len(weights) // 2] ^= 1
    packed(folder / 'broken.nemo', {**members, './model_weights.ckpt': bytes(weights)})
    with refusal(str(folder / 'broken.nemo'), NO_VALUE, 'Copy it again'):
        check_archive(folder / 'broken.nemo')


def test_an_archive_is_written_whole_or_not_at_all(folder, whole, monkeypatch):
    def full(*arguments):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='No space'):
        DreamFusion(small_config().model).save_to(str(folder / 'whole.nemo'))
    assert (folder / 'whole.nemo').read_bytes() == whole[0]


def test_an_archive_needs_no_temporary_folder(tmp_path, monkeypatch):
    """TMPDIR may be full, or not there: everything is collected beside the archive."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'nowhere'))
    DreamFusion(small_config().model).save_to(str(tmp_path / 'run' / 'x.nemo'))
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['x.nemo']
    check_archive(tmp_path / 'run' / 'x.nemo')
