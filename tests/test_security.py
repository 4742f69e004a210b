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

"""What no source of this project may do: run code from files, or trust what was downloaded."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    *('pickle.load', 'pickle.loads', 'joblib.load', 'dill.load', 'dill.loads', 'yaml.load', 'yaml.unsafe_load'),
    *('eval', 'exec', 'os.system', 'os.popen'),
}
BY_ANY_OBJECT = {'extractall', 'extract', 'unpack_archive', 'Unpickler', 'load_from_checkpoint'}
# DreamFusion's own hands Lightning what was read as plain data.
EXCEPTIONS = {'super().load_from_checkpoint'}


def violations(path: str, source: str) -> list[str]:
    """Calls that run code from data, unpack archives unseen, or start a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f'{path}:{node.lineno}: {name}'
        if (name in FORBIDDEN or name.rpartition('.')[2] in BY_ANY_OBJECT) and name not in EXCEPTIONS:
            found.append(where)
        if options.get('allow_pickle', 'False') != 'False':
            found.append(f'{where} would run code from an array file')
        if 'trust_remote_code' in options or options.get('shell') == 'True':
            found.append(f'{where} trusts what it is given')
        if name == 'torch.load' and options.get('weights_only', 'True') != 'True':
            found.append(f'{where} would run code from a file')
        if options.get('use_safetensors', 'True') != 'True':
            found.append(f'{where} would read pickled weights')
    return found


def test_no_source_does_it():
    found = []
    for path in (
        path for folder in ('nemo_dreamfusion', 'examples', 'benchmarks') for path in (ROOT / folder).rglob('*.py')
    ):
        found += violations(str(path.relative_to(ROOT)), path.read_text())
    assert not found, '\n'.join(found)


@pytest.mark.parametrize(
    'source',
    [
        'pickle.load(f)',
        'archive.extractall(folder)',
        "subprocess.run('ls', shell=True)",
        'torch.load(f, weights_only=False)',
        'Model.from_pretrained(x, trust_remote_code=True)',
        'Model.from_pretrained(x, use_safetensors=False)',
        'yaml.load(text, Loader)',
        'np.load(f, allow_pickle=True)',
        'np.load(f, allow_pickle=flag)',
        'joblib.load(f)',
        "archive.extract('member')",
        'pickle.Unpickler(f).load()',
        'Model.load_from_checkpoint(f)',
    ],
)
def test_the_rule_finds_it(source):
    assert len(violations('a.py', source)) == 1


def test_the_rule_lets_the_rest_pass():
    source = "torch.load(f, weights_only=True); torch.load(f); model.eval(); yaml.safe_load(t); np.load(f)"
    assert violations('a.py', source) == []
