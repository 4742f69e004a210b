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

"""The precision of the scene's arithmetic. (Frozen guidance weights have their own: model.guidance.networks.precision.)"""

from __future__ import annotations

import torch

from nemo_dreamfusion.parts.checks import refuse

FULL = ('32', '32-true')
MIXED = ('16', '16-mixed', 'bf16', 'bf16-mixed')


def check_scene_precision(precision: int | str | None) -> int | str | None:
    """Return ``trainer.precision`` of a fit, in any of Lightning's spellings; None is Lightning's default, 32.

    Raises:
        ValueError: for the types that would hold the scene itself in half or double precision: half precision cannot tell
            neighbouring samples of a ray apart, and the fast operations are float32.
    """
    if precision is not None and str(precision).strip().lower() not in (*FULL, *MIXED):
        allowed = f'one of {", ".join((*FULL, *MIXED))}, as the scene itself is float32'
        refuse('trainer.precision', precision, allowed, 'Set trainer.precision=bf16-mixed or 32.')
    return precision


def set_tf32(allowed: bool) -> None:
    """Let NVIDIA GPUs round the factors of float32 products and convolutions to TF32 (10 bits of mantissa), or not."""
    torch.set_float32_matmul_precision('high' if allowed else 'highest')
    torch.backends.cudnn.allow_tf32 = bool(allowed)
