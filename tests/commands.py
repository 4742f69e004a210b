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

"""Runs commands and examples within the test's own process: NeMo's imports take ten seconds."""

import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import TextIO

import pytest
from hydra.core.hydra_config import HydraConfig

from nemo_dreamfusion.launch import command_line

EXAMPLES = Path(__file__).parents[1] / 'examples'


def run_main(main: Callable[[], object], *arguments: str) -> int:
    """Call a command's main with arguments, as its console script does; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['nemo-dreamfusion', *arguments])
        patch.setattr(command_line, 'run_and_exit', lambda run: run())  # this process goes on
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
        finally:
            HydraConfig.instance().cfg = None
    return 0


def run_example(name: str, *arguments: str) -> int:
    """Run a script of examples/ as ``python <name> <arguments>`` does; its exit code."""
    return run_main(partial(runpy.run_path, str(EXAMPLES / name), run_name='__main__'), *arguments)


def run_here(
    command: Sequence[str], stdout: TextIO, stderr: TextIO, env: Mapping[str, str]
) -> CompletedProcess[Sequence[str]]:
    """Do what subprocess.run does with ``python -m nemo_dreamfusion.launch ...``, within this process."""
    assert list(command[1:3]) == ['-m', 'nemo_dreamfusion.launch']
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        for name, value in env.items():
            patch.setenv(name, value)
        return CompletedProcess(command, run_main(command_line.main, *command[3:]))
