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

"""The autoencoder's schedule."""

import pytest

from nemo_dreamfusion.pocket.training import vae

pytestmark = pytest.mark.unit


def test_cycles_of_the_autoencoder_follow_each_other():
    first, second = vae.VaeCycle(4, 1e-3, 2, 8), vae.VaeCycle(2, 5e-4, 2, 1)
    config = vae.VaeConfig(cycles=[first, second])
    assert config.steps == 6
    assert config.find_cycle(1) == (first, 1 / 4) and config.find_cycle(5) == (second, 1 / 2)


def test_learning_rate_of_one_cycle():
    assert vae.one_cycle(0.1, 0.1) == pytest.approx(1)
    assert vae.one_cycle(1.0, 0.1) == pytest.approx(0)
    assert vae.one_cycle(0.0, 0.1) < 0.1
