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

"""The beginning of a UNet, computed once for the rows of a guided batch that differ in their texts alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor


def share_rows(predictor: NoisePredictor) -> None:
    """Compute what comes before the first text once for both halves of a batch, where these are the same pictures.

    That is worth it where the UNet's first block reads no text, as that of the embedded model. On a CPU only: elsewhere the
    host would wait for the comparison.
    """
    unet = predictor.unet
    if predictor.dtype != torch.float32 or getattr(unet.down_blocks[0], 'has_cross_attention', False):
        return
    rows = _Rows()
    unet.conv_in = _OfOneHalf(unet.conv_in, rows)
    unet.down_blocks[0] = _OfOneHalf(unet.down_blocks[0], rows)
    predictor.register_forward_pre_hook(lambda _, given: rows.look(*given[:2]))


class _Rows:
    """Whether the two halves of the batch at hand are the same."""

    same = False

    def look(self, x: Tensor, t: Tensor) -> None:
        half = len(x) // 2
        plain = x.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.is_grad_enabled()
        even = plain and half > 0 and len(x) == 2 * half
        self.same = even and torch.equal(x[:half], x[half:]) and torch.equal(t[:half], t[half:])


class _OfOneHalf(nn.Module):
    """A layer or block that works on the first half of a batch and repeats what it finds."""

    def __init__(self, inner: nn.Module, rows: _Rows) -> None:
        super().__init__()
        self.inner, self.rows = inner, rows

    def forward(self, hidden_states: Tensor, temb: Tensor | None = None, **options: Any) -> Any:
        half = len(hidden_states) // 2 if self.rows.same else len(hidden_states)
        given = [hidden_states[:half]] if temb is None else [hidden_states[:half], temb[:half]]
        found = self.inner(*given, **options)
        return _repeat(found) if self.rows.same else found


def _repeat(found: Any) -> Any:
    if isinstance(found, (tuple, list)):
        return type(found)(map(_repeat, found))
    return torch.cat([found, found])
