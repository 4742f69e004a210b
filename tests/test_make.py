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

"""make run hands on what it was given, whatever characters that holds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
# In the place of .venv/bin/python: `-c` is run as it is, a script's arguments are written to a file instead.
STAND_IN = """#!{python}
import json, os, sys
if sys.argv[1] == '-c':
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with open({given!r}, 'w') as file:
    json.dump(sys.argv[1:], file)
with open({given!r} + '.all', 'a') as file:
    file.write(json.dumps(sys.argv[1:]) + '\\n')
print('Done: results/the folder')
sys.exit(int(os.environ.get('STAND_IN_CODE', 0)))
"""


@pytest.fixture
def make(tmp_path):
    """Runs `make run` in a .venv that counts as installed; the example's arguments, parsed as Hydra does."""
    if shutil.which('make') is None:
        pytest.skip('no make on this machine')
    venv, given = tmp_path / 'venv', tmp_path / 'given.json'
    python = venv / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN.format(python=sys.executable, given=str(given)))
    python.chmod(0o755)

    def run(*variables, code=0):
        # -o: these files are old enough, so nothing is installed
        stamps = [f'-o{venv}/.stamp-{name}' for name in ('package', 'requirements', 'torch-2.13.0', 'venv')]
        (venv / '.stamp-package').touch()
        command = ['make', 'run', f'VENV={venv}', *stamps, *variables]
        environment = {**os.environ, 'STAND_IN_CODE': str(code)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        if code:
            assert f'Error {code}' in done.stderr, done.stdout + done.stderr
        else:
            assert done.returncode == 0, done.stdout + done.stderr
        script, *arguments = json.loads(given.read_text())
        assert script == 'examples/dreamfusion.py' and arguments[:2] == ['--config-name', run.config]
        overrides = OverridesParser.create().parse_overrides(arguments[2:])
        return {override.key_or_group: override.value() for override in overrides}, done.stdout

    run.config = 'dreamfusion'
    run.calls = lambda: [json.loads(line) for line in Path(f'{given}.all').read_text().splitlines()]
    return run


@pytest.mark.parametrize(
    'text',
    ['a duck', 'a $x for $5', '`id` $(id)', "a dog's \"house\"", 'at the end \\', "\\'", 'a; b & c | d > e', '#1, 2'],
)
def test_prompt_and_folder_arrive_as_they_were_given(make, tmp_path, text):
    runs = str(tmp_path / 'runs' / text.replace('/', '_'))
    arguments, shown = make(f'PROMPT={text}', f'RUNS={runs}')
    assert arguments == {'model.prompt': text, 'exp_manager.exp_dir': runs}
    assert shown.rstrip('\n').endswith('  ' + runs)


def test_nothing_in_a_prompt_is_executed(make, tmp_path):
    prompt = f'a duck $(shell touch {tmp_path}/executed) `touch {tmp_path}/executed` $(info executed)'
    arguments, shown = make(f'PROMPT={prompt}')
    assert arguments['model.prompt'] == prompt
    assert not (tmp_path / 'executed').exists() and 'executed' not in shown


def test_defaults_and_more_arguments(make):
    assert make()[0] == {'exp_manager.exp_dir': 'results'}
    assert make('ARGS=trainer.max_steps=3 model.seed=1')[0] == {
        **{'exp_manager.exp_dir': 'results', 'trainer.max_steps': 3, 'model.seed': 1},
    }


def test_refine_is_a_second_stage_with_arguments_of_its_own(make):
    make.config = 'dreamfusion-dmtet'
    second, shown = make('REFINE=1', 'ARGS=trainer.max_steps=3', 'REFINE_ARGS=trainer.max_steps=2', 'PROMPT=a duck')
    archive = 'results/the folder/DreamFusion.nemo'
    assert second == {
        **{'exp_manager.exp_dir': 'results/refined', 'restore_from_path': archive},
        **{'model.prompt': 'a duck', 'trainer.max_steps': 2},
    }
    first, _ = make.calls()
    assert first[1:3] == ['--config-name', 'dreamfusion'] and first[-1] == 'trainer.max_steps=3'
    assert shown.count('Done: results/the folder') == 2


def test_a_first_stage_that_stops_hands_its_exit_code_on(make):
    make('REFINE=1', code=75)
    assert len(make.calls()) == 1


@pytest.mark.parametrize('off', ['0', 'false', 'no', 'off', ''])
def test_refine_can_be_switched_off(make, off):
    make(f'REFINE={off}')
    assert len(make.calls()) == 1


def test_make_alone_tells_what_there_is():
    if shutil.which('make') is None:
        pytest.skip('no make on this machine')
    shown = subprocess.run(['make'], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    targets = [f'make {name}' for name in ('run', 'test', 'lint', 'docs', 'bench')]
    for words in (*targets, 'PROMPT=', 'RUNS=', 'results/', 'minutes'):
        assert words in shown
