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

"""Write a file of prompts out as a Hydra sweep over ``model.prompt``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nemo_dreamfusion.parts.prompt_list import read_prompts

OPTION = 'prompts_file='


def quoted(text: str) -> str:
    """Quote a text as one value of Hydra's override grammar, whatever it holds (backslashes count before quotes only)."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ''), text) + "'"


def expand_prompts_file(arguments: Sequence[str]) -> list[str]:
    """Write ``prompts_file=<file>`` of a command line out as ``--multirun model.prompt='...','...'``."""
    expanded, is_list = [], False
    for argument in arguments:
        if argument.startswith(OPTION):
            written = argument.removeprefix(OPTION)
            prompts = read_prompts(written[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", written) else written)
            expanded.append('model.prompt=' + ','.join(quoted(prompt) for prompt in prompts))
            is_list = True
        else:
            expanded.append(argument)
    return ['--multirun', *expanded] if is_list else expanded
