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

"""From every spelling of a precision that Lightning knows to the type of the frozen weights."""

from __future__ import annotations

import torch

from nemo_dreamfusion.parts.checks import refuse

_SPELLINGS: dict[torch.dtype, tuple[str, ...]] = {
    torch.float64: ('64', '64-true', 'fp64', 'float64'),
    torch.float32: ('32', '32-true', 'fp32', 'float32'),
    torch.float16: ('16', '16-mixed', '16-true', 'fp16', 'float16', 'half', 'transformer-engine-float16'),
    torch.bfloat16: ('bf16', 'bf16-mixed', 'bf16-true', 'bfloat16', 'transformer-engine'),
}


def weight_dtype(precision: int | str) -> torch.dtype:
    """The type of frozen weights under ``precision``, which may be a number (16) or any spelling ('16-mixed').

    Frozen weights need no float32 copy, so 'mixed' and 'true' mean the same here. Latents and loss stay float32.
    """
    wanted = str(precision).strip().lower()
    for dtype, spellings in _SPELLINGS.items():
        if wanted in spellings and not isinstance(precision, bool):
            return dtype
    known = ', '.join(spelling for spellings in _SPELLINGS.values() for spelling in spellings)
    refuse('model.guidance.precision', precision, f'one of {known}', 'Set model.guidance.precision=32.')
