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

"""Colours in torch."""

import pytest
import torch

from nemo_dreamfusion.parts.colors import linear_rgb_to_lab

pytestmark = pytest.mark.unit


def test_lab_keeps_its_digits_under_autocast():
    rgb = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast('cpu', torch.bfloat16):
        found = linear_rgb_to_lab(rgb)
    torch.testing.assert_close(found, linear_rgb_to_lab(rgb), rtol=0, atol=0)
