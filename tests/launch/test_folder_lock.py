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


"""The folder of a run has one writer; a lock ends with its process, and leaves no refusal behind."""

import os
import subprocess
import sys

import pytest
from refusals import refusal

from nemo_dreamfusion.launch.folder_lock import only_one

HOLD = """
import sys
from pathlib import Path
from nemo_dreamfusion.launch.folder_lock import only_one
with only_one(Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path):
    with only_one(tmp_path):
        with refusal('exp_manager.exp_dir', str(tmp_path), 'exp_manager.exp_dir') as caught, only_one(tmp_path):
            pass
        assert f'process {os.getpid()} ' in str(caught.value)
    with only_one(tmp_path):
        pass


@pytest.mark.slow
def test_a_lock_does_not_outlive_a_killed_process(tmp_path):
    call = [sys.executable, '-c', HOLD, str(tmp_path)]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'held\n'
        with refusal('exp_manager.exp_dir', str(tmp_path), 'exp_manager.exp_dir') as caught, only_one(tmp_path):
            pass
        assert f'process {other.pid} ' in str(caught.value)
        other.kill()
    with only_one(tmp_path):
        pass


def test_the_other_ranks_of_a_run_take_no_lock(tmp_path, monkeypatch):
    with only_one(tmp_path):
        monkeypatch.setenv('LOCAL_RANK', '1')
        with only_one(tmp_path):
            pass
