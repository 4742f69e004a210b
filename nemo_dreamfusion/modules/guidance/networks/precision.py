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

"""The type of the frozen weights, from every spelling of a precision that Lightning knows."""

from __future__ import annotations

import torch

from nemo_dreamfusion.parts.checks import refuse

_SPELLINGS: dict[torch.dtype, tuple[str, ...]] = {
    torch.float64: ('64', '64-true', 'fp64', 'float64'),
    torch.float32: ('32', '32-true', 'fp32', 'float32'),
    torch.float16: ('16', '16-mixed', '16-true', 'fp16', 'float16', 'half', 'transformer-engine-float16'),
    torch.bfloat16: ('bf16', 'bf16-mixed', 'bf16-true', 'bfloat16', 'transformer-engine'),
}
AUTO = 'auto'


def weight_dtype(
    precision: int | str | None,
    device: torch.device | str | None = None,
    *,
    name: str = 'model.guidance.networks.precision',
) -> torch.dtype:
    """Return the type of frozen weights under ``precision``, a number (16) or any spelling ('16-mixed').

    Frozen weights need no float32 copy, so 'mixed' and 'true' mean the same here. Latents and loss stay float32.

    Args:
        precision: None is Lightning's default, 32. ``auto`` is what is fast on the device.
        device: where the weights go; without one ``auto`` is refused.
        name: the setting, for the message.

    Raises:
        ValueError: for what is no precision.

    >>> weight_dtype('16-mixed'), weight_dtype('auto', 'cuda')
    (torch.float16, torch.float16)
    """
    wanted = str(32 if precision is None else precision).strip().lower()
    if wanted == AUTO and device is not None:
        return fast_dtype(torch.device(device))
    for dtype, spellings in _SPELLINGS.items():
        if wanted in spellings and not isinstance(precision, bool):
            return dtype
    known = ', '.join(spelling for spellings in _SPELLINGS.values() for spelling in spellings)
    known = known if device is None else f'{AUTO}, {known}'
    refuse(name, precision, f'one of {known}', f'Set {name}=32.')


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return float16 on a CUDA device, bfloat16 on a CPU whose instructions multiply it, else float32."""
    if device.type == 'cuda':
        return torch.float16
    return torch.bfloat16 if device.type == 'cpu' and _cpu_multiplies_bfloat16() else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Return whether there is AVX-512 BF16 or AMX. (oneDNN counts emulation, too, which is slower than float32.)"""
    asked = ('_is_avx512_bf16_supported', '_is_amx_tile_supported')  # not in every release of torch
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)
