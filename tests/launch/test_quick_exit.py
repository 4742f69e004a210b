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

"""A process that ends quickly ends as Python would end it, but for the objects."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys, threading, time
from nemo_dreamfusion.launch.quick_exit import run_and_exit

class Loud:
    def __del__(self):
        print('freed')

loud = Loud()
loud.itself = loud  # only the collector at Python's end would find it
atexit.register(print, 'atexit')

def work():
    time.sleep(0.3)
    print('thread')

def main():
    threading.Thread(target=work).start()
    print('main')
    {last}

run_and_exit(main)
"""


def run(last):
    return subprocess.run([sys.executable, '-c', SCRIPT.format(last=last)], capture_output=True, encoding='utf-8')


@pytest.mark.parametrize(
    ('last', 'code'), [('pass', 0), ('sys.exit()', 0), ('sys.exit(0)', 0), ('sys.exit(75)', 75), ('sys.exit(True)', 1)]
)
def test_threads_and_handlers_come_before_the_end_and_objects_stay(last, code):
    done = run(last)
    assert (done.returncode, done.stdout, done.stderr) == (code, 'main\nthread\natexit\n', '')


@pytest.mark.parametrize(
    ('last', 'said'), [("sys.exit('no')", 'no\n'), ("raise RuntimeError('no')", 'RuntimeError: no\n')]
)
def test_errors_end_it_as_they_always_do(last, said):
    done = run(last)
    assert done.returncode == 1 and done.stdout.startswith('main\n') and done.stderr.endswith(said)


def test_the_command_ends_so():
    code = (
        'import atexit; atexit.register(print, "atexit"); from nemo_dreamfusion.launch.command_line import command\n'
    )
    code += 'import sys; sys.argv = ["nemo-dreamfusion", "trainer.max_step=2"]; command()'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8')
    assert done.returncode == 2 and done.stdout == 'atexit\n' and done.stderr.count('\n') == 1


def test_a_profiler_writes_what_it_found(tmp_path):
    script, found = tmp_path / 'script.py', tmp_path / 'found'
    script.write_text(SCRIPT.format(last='sys.exit(75)'))
    done = subprocess.run([sys.executable, '-m', 'cProfile', '-o', str(found), str(script)])
    assert done.returncode in (0, 75) and found.stat().st_size  # the profiler drops the code


@pytest.mark.parametrize('stream', ['sys.stdout = None', 'sys.stdout.close()'])
def test_a_stream_that_is_gone_keeps_the_code(stream):
    script = SCRIPT.replace('{last}', f'{stream}; sys.exit(75)').replace("    print('thread')", '    pass')
    done = subprocess.run([sys.executable, '-c', script.replace("print, 'atexit'", 'int')], capture_output=True)
    assert done.returncode == 75
