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

"""What the tests of the operations share."""

import math

import pytest
import torch

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.backends.cpu.library import library


@pytest.fixture
def backend(monkeypatch):
    """Force a backend: backend('native')."""

    def force(name: str) -> None:
        if name == 'native' and library() is None:
            pytest.skip('the native CPU library was not built')
        monkeypatch.setenv(select.VARIABLE, name)

    return force


@pytest.fixture
def needs_native():
    if library() is None:
        pytest.skip('the native CPU library was not built')


@pytest.fixture
def relative_error():
    """The largest difference against the largest expected value; 0 for empty tensors, infinite for NaN."""

    def measure(found, expected) -> float:
        assert found.shape == expected.shape
        if expected.numel() == 0:
            return 0.0
        error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-20))
        return float('inf') if math.isnan(error) else error  # max() over errors would pass over NaN

    return measure


@pytest.fixture
def assert_opcheck():
    """torch's own checks of a registered operator (schema, fake tensors, autograd, tracing) all succeed."""

    def check(operator, arguments) -> None:
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {'SUCCESS'}, results

    return check
