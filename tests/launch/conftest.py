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

"""Commands run within the test's own process: NeMo's imports take ten seconds."""

import sys
from collections.abc import Callable

import pytest
from hydra.core.hydra_config import HydraConfig


@pytest.fixture
def run_command(monkeypatch) -> Callable[..., int]:
    """Return a function that calls a command's main with arguments, as its console script does; its exit code."""

    def run(main: Callable[[], None], *arguments: str) -> int:
        monkeypatch.setattr(sys, 'argv', ['nemo-dreamfusion', *arguments])
        try:
            main()
        except SystemExit as stop:
            return stop.code or 0
        finally:
            HydraConfig.instance().cfg = None
        return 0

    return run
