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

"""The lists of prompts that a benchmark fits."""

from __future__ import annotations

from pathlib import Path

from nemo_dreamfusion.launch.prompts_file import read_prompts
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.pocket.world.prompts import SUITE

SUITES = {'suite12': lambda: list(SUITE)}


def read_suite(name: str) -> list[str]:
    """Return the prompts of a suite by its name, or those of a file, one a line.

    Raises:
        ValueError: for neither.
    """
    if name in SUITES:
        return SUITES[name]()
    if not Path(name).expanduser().is_file():
        refuse('suite', name, f'one of {", ".join(SUITES)}, or a file of prompts, one a line')
    return read_prompts(name)
