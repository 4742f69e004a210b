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

from collections.abc import Callable
from pathlib import Path

from nemo_dreamfusion.launch.prompts_file import read_prompts
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.pocket.world.draws import draw_held_out
from nemo_dreamfusion.pocket.world.prompts import SUITE

HELD_OUT_KINDS = ('named-with-attributes', 'single', 'pair')
HELD_OUT_EACH, HELD_OUT_SEED = 20, 13


def draw_held_out_suite() -> list[str]:
    """Return 20 named objects with attributes, 20 single shapes and 20 pairs, none of which the training has seen."""
    return [prompt for kind in HELD_OUT_KINDS for prompt in draw_held_out(kind, HELD_OUT_EACH, HELD_OUT_SEED)]


SUITES: dict[str, Callable[[], list[str]]] = {'suite12': lambda: list(SUITE), 'held_out60': draw_held_out_suite}


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
