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

"""Archives with known answers, made with NeMo's own modules and random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

ARCHIVES = Path(__file__).resolve().parents[1] / 'data' / 'nemo_sd'


@pytest.fixture(scope='session')
def archive():
    """From a name to the path of the archive."""
    return lambda name: str(ARCHIVES / f'{name}.nemo')


@pytest.fixture(scope='session')
def answers():
    """From a name to the inputs that the archive's modules were given and what they gave."""
    return lambda name: {k: torch.tensor(v) for k, v in np.load(ARCHIVES / f'{name}.npz').items()}
