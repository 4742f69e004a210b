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

"""Texts are UTF-8 whatever the locale, and nothing that only prints fails a run."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_dreamfusion.launch import terminal
from nemo_dreamfusion.launch.terminal import SafeStream, prepare_terminal, utf8_command

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *(ROOT / 'nemo_dreamfusion').rglob('*.py'),
    *(ROOT / 'examples').rglob('*.py'),
    *(ROOT / 'benchmarks').rglob('*.py'),
    ROOT / 'setup.py',
]
MODULES_THAT_OPEN = {'os', 'tarfile', 'Image', 'webbrowser', 'self'}  # their open() is none of text files


def text_files_without_encoding(source: str) -> list[int]:
    """Return the lines that open a file as text and leave its encoding to the locale."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and _uses_locale(node)]


def _uses_locale(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, 'id', '')
    owner = getattr(call.func.value, 'id', '') if isinstance(call.func, ast.Attribute) else None
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if None in keywords or 'encoding' in keywords:
        return False
    if name in ('read_text', 'write_text'):
        return True
    if name in ('run', 'Popen', 'check_output') and ('text' in keywords or 'universal_newlines' in keywords):
        return True
    default = {'open': 'r', 'fdopen': 'r', 'NamedTemporaryFile': 'w+b', 'TemporaryFile': 'w+b'}
    if name not in default or (name == 'open' and owner in MODULES_THAT_OPEN):
        return False
    place = {'open': 0 if owner else 1, 'fdopen': 1}.get(name, 0)  # path.open(mode), open(path, mode)
    given = keywords.get('mode', call.args[place] if len(call.args) > place else ast.Constant(default[name]))
    return isinstance(given, ast.Constant) and isinstance(given.value, str) and 'b' not in given.value


@pytest.mark.parametrize(
    ('source', 'found'),
    [
        ('open(path)', True),
        ('open(path, "w")', True),
        ('path.open()', True),
        ('path.open("w")', True),
        ('path.read_text()', True),
        ('path.write_text(text)', True),
        ('subprocess.run(command, text=True)', True),
        ('tempfile.NamedTemporaryFile("w")', True),
        ('open(path, "rb")', False),
        ('path.open("wb")', False),
        ('path.read_text(encoding="utf-8")', False),
        ('tarfile.open(path)', False),
        ('tempfile.TemporaryFile()', False),
    ],
)
def test_the_search_finds_what_the_locale_decides(source, found):
    assert bool(text_files_without_encoding(source)) == found


def test_every_text_file_is_opened_with_an_encoding():
    wrong = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in SOURCES
        for line in text_files_without_encoding(path.read_text(encoding='utf-8'))
        if path.name != 'engine.py'  # plans.open(name, device) opens an engine
    ]
    assert not wrong


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'cp1252', 'utf-8'])
def test_what_a_terminal_cannot_show_is_escaped(encoding):
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding=encoding))
    text = 'café ✓ █ \udce9\n'
    stream.write(text)
    stream.flush()
    assert raw.getvalue() == text.encode(encoding, 'backslashreplace')


def test_a_reader_that_is_gone_does_not_matter():
    reading, writing = os.pipe()
    os.close(reading)
    stream = SafeStream(os.fdopen(writing, 'w', encoding='utf-8'))
    assert stream.write('x' * 10) == 10
    stream.flush()
    print('y' * 100_000, file=stream, flush=True)


def test_a_closed_output_goes_nowhere(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', None)
    monkeypatch.setattr(sys, 'stderr', None)
    terminal.make_printing_safe()
    sys.stderr.write('error: ...\n')
    print('Done')


def test_an_argument_that_is_not_utf8_is_named(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['main', 'model.prompt=caf\udce9'])
    for name in ('stdout', 'stderr'):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    with pytest.raises(ValueError, match=r'model\.prompt=caf.*UTF-8'):
        prepare_terminal()


@pytest.mark.parametrize('of_locale', ['é', '\udcc3\udca9'])
def test_the_arguments_of_the_second_start_are_utf8(of_locale):
    """Decoded by Latin-1, or kept as bytes by ASCII: both are the same sign."""
    command, environment = utf8_command(['python', 'main.py', of_locale])
    assert command == [os.fsencode(sys.executable), b'-X', b'utf8', b'main.py', 'é'.encode()]
    assert environment['PYTHONUTF8'] == '1'


SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location('terminal', sys.argv[1])
terminal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(terminal)
terminal.prepare_terminal()
with open(sys.argv[2], 'w') as file:
    file.write(sys.argv[3])
print(sys.argv[3], '✓', sys.flags.utf8_mode)
"""


@pytest.mark.parametrize('stdout_encoding', [None, 'latin-1'])
def test_a_process_in_an_ascii_locale(tmp_path, stdout_encoding):
    (tmp_path / 'script.py').write_text(SCRIPT, encoding='utf-8')
    environment = {**os.environ, 'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
    environment.pop('PYTHONIOENCODING', None)
    if stdout_encoding:
        environment['PYTHONIOENCODING'] = stdout_encoding
    command = [sys.executable, tmp_path / 'script.py', terminal.__file__, tmp_path / 'résultat ✓', 'a café ✓']
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'résultat ✓').read_text(encoding='utf-8') == 'a café ✓'
    assert b'\\u2713 1' in done.stdout
