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

"""The noise schedule of a diffusion model, from its configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.parts.checks import refuse

BETA_SCHEDULES = ('linear', 'scaled_linear', 'squaredcos_cap_v2')


def betas_of(config: Mapping[str, Any]) -> Tensor:
    """Betas [T], float64, of a diffusers ``scheduler_config.json``; a schedule that is not known is refused."""
    betas = _betas(config)
    return _zero_terminal_snr(betas) if config.get('rescale_betas_zero_snr', False) else betas


def _betas(config: Mapping[str, Any]) -> Tensor:
    if config.get('trained_betas') is not None:
        return torch.tensor(config['trained_betas'], dtype=torch.float64)
    kind = config.get('beta_schedule', 'linear')
    start, end = config.get('beta_start', 0.0001), config.get('beta_end', 0.02)
    steps = config.get('num_train_timesteps', 1000)
    if kind == 'linear':
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if kind == 'scaled_linear':
        return torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64) ** 2
    if kind == 'squaredcos_cap_v2':
        s = (torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 0.008) / 1.008
        bar = torch.cos(s * math.pi / 2) ** 2
        return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    refuse('beta_schedule of the scheduler', kind, f'one of {", ".join(BETA_SCHEDULES)}')


def _zero_terminal_snr(betas: Tensor) -> Tensor:
    """Betas rescaled so that the last time is pure noise (algorithm 1 of https://arxiv.org/abs/2305.08891)."""
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    return 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])


def nemo_buffers(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tables that NeMo's (CompVis') DDPM keeps in its state: [T] each, float32."""
    betas = betas_of(config)
    abar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])
    variance = betas * (1 - before) / (1 - abar)
    tables = {
        'betas': betas,
        'alphas_cumprod': abar,
        'alphas_cumprod_prev': before,
        'sqrt_alphas_cumprod': abar.sqrt(),
        'sqrt_one_minus_alphas_cumprod': (1 - abar).sqrt(),
        'log_one_minus_alphas_cumprod': (1 - abar).log(),
        'sqrt_recip_alphas_cumprod': (1 / abar).sqrt(),
        'sqrt_recipm1_alphas_cumprod': (1 / abar - 1).sqrt(),
        'posterior_variance': variance,
        'posterior_log_variance_clipped': variance.clamp(min=1e-20).log(),
        'posterior_mean_coef1': betas * before.sqrt() / (1 - abar),
        'posterior_mean_coef2': (1 - before) * (1 - betas).sqrt() / (1 - abar),
    }
    return {name: table.float() for name, table in tables.items()}
