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
from refusals import refusal

from nemo_dreamfusion.launch import fail_together as module
from nemo_dreamfusion.launch.fail_together import OtherProcessError, fail_together


def other(code):
    """A process beside this one."""
    return subprocess.Popen([sys.executable, '-c', code])


def trainer(*others, first=True, barrier=lambda: None):
    launcher = SimpleNamespace(procs=list(others))
    return SimpleNamespace(strategy=SimpleNamespace(launcher=launcher, barrier=barrier), is_global_zero=first)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, 'GRACE', 0.5)
    monkeypatch.setattr(module, 'PATIENCE', 0.5)


@pytest.mark.parametrize('error', [ValueError('mine'), OSError('mine'), RuntimeError('mine')])
def test_an_error_here_ends_the_others(error):
    made = trainer(other('import time; time.sleep(60)'))
    (process,) = made.strategy.launcher.procs
    with pytest.raises(type(error), match='mine'), fail_together(made):
        raise error
    assert process.wait(timeout=10) == -9
    assert made.strategy.launcher.procs == []  # Lightning's observer has nobody left to mourn


@pytest.mark.parametrize(
    ('code', 'expected'),
    [('raise SystemExit(74)', 74), ('import os, signal; os.kill(os.getpid(), signal.SIGKILL)', 137)],
)
def test_a_broken_connection_is_told_as_what_broke_it(code, expected, monkeypatch):
    made = trainer(other('import time; time.sleep(60)'), other(code))
    monkeypatch.setattr(module, 'PATIENCE', 60)
    with (
        refusal('rank', 2, f'exit code {expected}', error=OtherProcessError) as caught,
        fail_together(made),
    ):
        raise RuntimeError('Connection closed by peer')
    assert caught.value.exit_code == expected


def test_the_others_keep_their_error_back_for_a_moment():
    began = time.monotonic()
    with pytest.raises(ValueError, match='mine'), fail_together(trainer(first=False)):
        raise ValueError('mine')
    assert time.monotonic() - began >= module.GRACE


def test_at_a_good_end_all_wait_for_each_other_and_may_then_exit_as_they_like():
    met = []
    made = trainer(other('raise SystemExit(75)'), barrier=lambda: met.append(list(made.strategy.launcher.procs)))
    (process,) = launched = made.strategy.launcher.procs
    with fail_together(made):
        assert not met
    assert met == [[process]]  # until all have met, Lightning still ends this process if another fails
    assert launched == [] and made.strategy.launcher.procs is launched  # the observer's own list
    assert process.wait(timeout=60) == 75


def test_an_error_of_another_that_breaks_the_last_meeting_is_told(monkeypatch):
    def barrier():
        raise RuntimeError('Connection closed by peer')

    monkeypatch.setattr(module, 'PATIENCE', 60)
    with refusal('rank', 1, 'exit code 74', error=OtherProcessError):
        with fail_together(trainer(other('raise SystemExit(74)'), barrier=barrier)):
            pass


def test_nothing_happens_without_an_error_or_others():
    with fail_together(trainer()):
        pass
    with (
        pytest.raises(RuntimeError),
        fail_together(SimpleNamespace(strategy=SimpleNamespace(launcher=None), is_global_zero=True)),
    ):
        raise RuntimeError('one process')
