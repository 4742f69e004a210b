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

"""Files and folders appear whole or not at all."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from refusals import refusal

from nemo_dreamfusion.parts import files
from nemo_dreamfusion.parts.files import atomic_folder, atomic_path, check_space, check_writable, temporary_files_in

pytestmark = pytest.mark.unit


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


def test_atomic_path_leaves_the_old_file_after_an_error(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old', encoding='utf-8')
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text('half', encoding='utf-8')
        raise RuntimeError
    assert path.read_text(encoding='utf-8') == 'old' and names(tmp_path) == ['a.txt']


def test_atomic_path_replaces_a_file_and_makes_its_folder(tmp_path):
    path = tmp_path / 'deep' / 'a.txt'
    for text in ('old', 'new'):
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent and temporary.suffix == '.txt' and temporary != path
            temporary.write_text(text, encoding='utf-8')
        assert path.read_text(encoding='utf-8') == text and names(tmp_path) == ['deep', 'deep/a.txt']


def test_write_atomically_writes_utf8_in_any_locale(tmp_path):
    code = (
        'import sys; from nemo_dreamfusion.parts.files import write_atomically\n'
        'write_atomically(sys.argv[1], "32 \\xd7 \\u03b5\\n")'
    )
    environment = {**os.environ, 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
    subprocess.run([sys.executable, '-c', code, str(tmp_path / 'a.txt')], env=environment, check=True)
    assert (tmp_path / 'a.txt').read_bytes() == '32 × ε\n'.encode()


def fill(folder, text):
    (folder / 'part').mkdir()
    (folder / 'part' / 'a.txt').write_text(text, encoding='utf-8')


def test_atomic_folder_replaces_everything_that_stood_there(tmp_path):
    target = tmp_path / 'deep' / 'out'
    with atomic_folder(target) as folder:
        fill(folder, 'old')
        (folder / 'only_old').touch()
        assert not target.exists()
    with atomic_folder(target) as folder:
        fill(folder, 'new')
    assert names(tmp_path / 'deep') == ['out', 'out/part', 'out/part/a.txt']
    assert (target / 'part' / 'a.txt').read_text(encoding='utf-8') == 'new'


def test_atomic_folder_takes_the_place_of_a_file(tmp_path):
    (tmp_path / 'out').write_text('a file', encoding='utf-8')
    with atomic_folder(tmp_path / 'out') as folder:
        fill(folder, 'new')
    assert names(tmp_path) == ['out', 'out/part', 'out/part/a.txt']


def test_atomic_folder_leaves_the_old_one_after_an_error(tmp_path):
    with atomic_folder(tmp_path / 'out') as folder:
        fill(folder, 'old')
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / 'out') as folder:
        fill(folder, 'new')
        raise KeyboardInterrupt
    assert names(tmp_path) == ['out', 'out/part', 'out/part/a.txt']
    assert (tmp_path / 'out' / 'part' / 'a.txt').read_text(encoding='utf-8') == 'old'


def test_atomic_folder_puts_the_old_one_back_when_the_last_rename_fails(tmp_path, monkeypatch):
    with atomic_folder(tmp_path / 'out') as folder:
        fill(folder, 'old')
    rename = os.replace

    def fail_for_the_new_one(source, target):
        if (source / 'new').exists():
            raise OSError('no more')
        rename(source, target)

    monkeypatch.setattr(files.os, 'replace', fail_for_the_new_one)
    with pytest.raises(OSError, match='no more'), atomic_folder(tmp_path / 'out') as folder:
        (folder / 'new').touch()
    assert names(tmp_path) == ['out', 'out/part', 'out/part/a.txt']


@pytest.mark.parametrize('kind', ['atomic_path', 'atomic_folder'])
def test_contents_are_on_disk_before_they_get_their_name(kind, tmp_path):
    """Killed at the first fsync, what stood there stands there still."""
    target = tmp_path / 'out'
    if kind == 'atomic_folder':
        target.mkdir()
        fill(target, 'old')
        write = "(temporary / 'a.txt').write_text('new', encoding='utf-8')"
    else:
        target.write_text('old', encoding='utf-8')
        write = "temporary.write_text('new', encoding='utf-8')"
    before = names(target.parent)
    code = (
        'import os, signal\nfrom pathlib import Path\n'
        f'from nemo_dreamfusion.parts.files import {kind}\n'
        'os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n'
        f'with {kind}(Path({str(target)!r})) as temporary:\n    {write}\n'
    )
    done = subprocess.run([sys.executable, '-c', code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names(tmp_path) if not name.startswith('.')] == before


def test_folder_that_cannot_be_written_is_refused_with_the_setting(tmp_path):
    (tmp_path / 'file').touch()
    with refusal('exp_dir', str(tmp_path / 'file' / 'run'), 'another folder'):
        check_writable(tmp_path / 'file' / 'run', 'exp_dir')
    check_writable(tmp_path / 'new', 'exp_dir')
    assert names(tmp_path / 'new') == []


def test_space_that_is_missing_is_known_before(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path, 0, 'exp_manager.exp_dir')
    with refusal('exp_manager.exp_dir', str(tmp_path), 'MiB'):
        check_space(tmp_path, 2 * free + 2**30, 'exp_manager.exp_dir')


def test_temporary_files_lie_where_they_are_asked_to(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'nowhere'))
    with pytest.raises(KeyError), temporary_files_in(tmp_path / 'run'):
        with tempfile.NamedTemporaryFile() as file:
            assert Path(file.name).is_relative_to(tmp_path / 'run')
        raise KeyError
    assert tempfile.tempdir == str(tmp_path / 'nowhere') and list((tmp_path / 'run').iterdir()) == []
