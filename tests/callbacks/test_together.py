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

"""What the process that started others does with them when a fit ends in an error, and what the others do."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from nemo_dreamfusion.callbacks import together as module
from nemo_dreamfusion.callbacks.together import OtherProcessError, together


def other(code):
    """A process beside this one."""
    return subprocess.Popen([sys.executable, '-c', code])


def trainer(*others, first=True):
    return SimpleNamespace(
        strategy=SimpleNamespace(launcher=SimpleNamespace(procs=list(others))), is_global_zero=first
    )


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, 'GRACE', 0.5)


@pytest.mark.parametrize('error', [ValueError('mine'), OSError('mine'), RuntimeError('mine')])
def test_an_error_here_ends_the_others(error):
    made = trainer(other('import time; time.sleep(60)'))
    (process,) = made.strategy.launcher.procs
    with pytest.raises(type(error), match='mine'), together(made):
        raise error
    assert process.wait(timeout=10) == -9
    assert made.strategy.launcher.procs == []  # Lightning's observer has nobody left to mourn


@pytest.mark.parametrize(
    ('code', 'expected'),
    [('raise SystemExit(74)', 74), ('import os, signal; os.kill(os.getpid(), signal.SIGKILL)', 137)],
)
def test_a_broken_connection_is_told_as_what_broke_it(code, expected):
    made = trainer(other(code), other('import time; time.sleep(60)'))
    module.GRACE = 20
    with pytest.raises(OtherProcessError, match=f'rank 1 ended with exit code {expected}') as caught, together(made):
        raise RuntimeError('Connection closed by peer')
    assert caught.value.exit_code == expected


def test_the_others_keep_their_error_back_for_a_moment():
    began = time.monotonic()
    with pytest.raises(ValueError, match='mine'), together(trainer(first=False)):
        raise ValueError('mine')
    assert time.monotonic() - began >= module.GRACE


def test_nothing_happens_without_an_error_or_others():
    with together(trainer()):
        pass
    with (
        pytest.raises(RuntimeError),
        together(SimpleNamespace(strategy=SimpleNamespace(launcher=None), is_global_zero=True)),
    ):
        raise RuntimeError('one process')
