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

"""A checkpoint that holds code is refused in our words: torch's own advise to run it."""

import os

import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.parts.safe_load import read_checkpoint


class Code:
    def __reduce__(self):
        return os.getcwd, ()


def test_pickled_code_is_refused_without_advice_to_run_it(tmp_path):
    path = tmp_path / 'evil.ckpt'
    torch.save({'state_dict': {}, 'more': Code()}, path)
    with refusal(str(path), NO_VALUE, 'code', 'plain data') as caught:
        read_checkpoint(path)
    assert 'weights_only' not in str(caught.value)
