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


"""Which precisions a scene takes, and the TF32 switch."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.parts.precision import check_scene_precision, set_tf32

pytestmark = pytest.mark.unit


@pytest.mark.parametrize('precision', [None, 32, '32', '32-true', 16, '16', '16-mixed', 'bf16', 'bf16-mixed'])
def test_full_and_mixed_precisions_pass(precision):
    assert check_scene_precision(precision) == precision


@pytest.mark.parametrize('precision', ['16-true', 'bf16-true', 64, '64-true', 'transformer-engine', 8, 'mixed'])
def test_others_are_refused_with_what_to_set(precision):
    with refusal('trainer.precision', precision, 'trainer.precision=bf16-mixed'):
        check_scene_precision(precision)


@pytest.fixture
def settings():
    """Gives torch's settings back."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.usefixtures('settings')
def test_tf32_is_switched_on_and_off_for_products_and_convolutions():
    for allowed in (True, False):
        set_tf32(allowed)
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed


@pytest.mark.gpu
@pytest.mark.usefixtures('settings')
def test_tf32_rounds_the_factors_on_a_gpu():
    a = torch.randn(512, 512, device='cuda')
    errors = []
    for allowed in (True, False):
        set_tf32(allowed)
        errors.append((a @ a - (a.double() @ a.double())).abs().max().item())
    assert errors[0] > 4 * errors[1]
