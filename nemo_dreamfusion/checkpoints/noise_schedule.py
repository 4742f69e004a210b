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

from nemo_dreamfusion.parts.checks import check_positive, check_range, refuse

PREDICTION_TYPES = ('epsilon', 'v_prediction', 'sample')
FLOW_SCHEDULER = 'FlowMatchEulerDiscreteScheduler'
BETA_SCHEDULES = ('linear', 'scaled_linear', 'squaredcos_cap_v2')
_TOKENS = {'base_image_seq_len': 256, 'max_image_seq_len': 4096}  # and their defaults
_SHIFTS = {'base_shift': 0.5, 'max_shift': 1.15}
_DDPM = (0.0001, 0.02, 'linear')
_KARRAS = (0.00085, 0.012, 'linear')
# diffusers' schedulers of plain diffusion models: beta_start, beta_end and beta_schedule where a file lacks them
BETA_DEFAULTS = {
    'DDIMInverseScheduler': _DDPM,
    'DDIMParallelScheduler': _DDPM,
    'DDIMScheduler': _DDPM,
    'DDPMParallelScheduler': _DDPM,
    'DDPMScheduler': _DDPM,
    'DEISMultistepScheduler': _DDPM,
    'DPMSolverMultistepInverseScheduler': _DDPM,
    'DPMSolverMultistepScheduler': _DDPM,
    'DPMSolverSDEScheduler': _KARRAS,
    'DPMSolverSinglestepScheduler': _DDPM,
    'EulerAncestralDiscreteScheduler': _DDPM,
    'EulerDiscreteScheduler': _DDPM,
    'HeunDiscreteScheduler': _KARRAS,
    'KDPM2AncestralDiscreteScheduler': _KARRAS,
    'KDPM2DiscreteScheduler': _KARRAS,
    'LMSDiscreteScheduler': _DDPM,
    'PNDMScheduler': _DDPM,
    'SASolverScheduler': _DDPM,
    'UniPCMultistepScheduler': _DDPM,
}


def compute_betas(config: Mapping[str, Any], name: str = 'the scheduler') -> Tensor:
    """Return the betas [T], float64, of a diffusers ``scheduler_config.json``.

    Args:
        config: the file; what it lacks is the default of the class that it names.
        name: of the file, for messages.

    Raises:
        ValueError: for a schedule that is not known or that the file does not give; nothing is guessed.
    """
    betas = _betas(config, name)
    return _zero_terminal_snr(betas) if config.get('rescale_betas_zero_snr', False) else betas


def complete_betas(config: Mapping[str, Any], name: str = 'the scheduler') -> dict[str, Any]:
    """Return ``beta_start``, ``beta_end``, ``beta_schedule`` and ``num_train_timesteps``: the file's, or its class's own."""
    kind = config.get('_class_name')
    if kind is not None and kind not in BETA_DEFAULTS:
        refuse(f'_class_name of {name}', kind, f'one of {", ".join(BETA_DEFAULTS)}')
    keys = ('beta_start', 'beta_end', 'beta_schedule')
    defaults = dict(zip(keys, BETA_DEFAULTS[kind])) if kind else {}
    found = {'num_train_timesteps': 1000, **defaults, **{key: config[key] for key in keys if key in config}}
    if config.get('num_train_timesteps') is not None:
        found['num_train_timesteps'] = config['num_train_timesteps']
    if 'beta_schedule' in found and found['beta_schedule'] not in BETA_SCHEDULES:
        refuse(f'beta_schedule of {name}', found['beta_schedule'], f'one of {", ".join(BETA_SCHEDULES)}')
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(
            f'{name} says neither {" nor ".join(missing)} nor _class_name, the class whose defaults they have: it is no '
            'noise schedule of betas. Write them there as the model was trained.'
        )
    return found


def _betas(config: Mapping[str, Any], name: str) -> Tensor:
    if config.get('trained_betas') is not None:
        return _trained_betas(config['trained_betas'], name)
    schedule = complete_betas(config, name)
    kind = schedule['beta_schedule']
    start = check_range(f'beta_start of {name}', schedule['beta_start'], 0, 1, low_open=True, high_open=True)
    end = check_range(f'beta_end of {name}', schedule['beta_end'], start, 1, high_open=True)
    steps = check_positive(f'num_train_timesteps of {name}', schedule['num_train_timesteps'], integer=True)
    if kind == 'linear':
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if kind == 'scaled_linear':
        return torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64) ** 2
    s = (torch.linspace(0, 1, steps + 1, dtype=torch.float64) + 0.008) / 1.008
    bar = torch.cos(s * math.pi / 2) ** 2
    return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)


def _trained_betas(given: Any, name: str) -> Tensor:
    try:
        betas = torch.tensor(given, dtype=torch.float64)
    except (TypeError, ValueError):
        betas = torch.tensor(())
    if betas.ndim != 1 or not len(betas) or not bool(((betas >= 0) & (betas <= 1)).all()):
        refuse(f'trained_betas of {name}', given, 'a list of numbers from 0 to 1')
    return betas


def _zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescale betas so that the last time is pure noise (algorithm 1 of https://arxiv.org/abs/2305.08891)."""
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    abar = root**2
    return 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])


def is_flow(config: Mapping[str, Any]) -> bool:
    """Return whether a ``scheduler_config.json`` is of a rectified flow, which has sigmas and no betas."""
    of_another = bool(config.get('use_flow_sigmas', False)) and config.get('prediction_type') == 'flow_prediction'
    return config.get('_class_name') == FLOW_SCHEDULER or of_another


def compute_flow_sigmas(
    config: Mapping[str, Any], name: str = 'the scheduler', *, image_tokens: int | None = None
) -> Tensor:
    """Return sigma [T], float64, rising to 1, of diffusers' FlowMatchEulerDiscreteScheduler.

    Or of another scheduler that says ``use_flow_sigmas``, whose shift is called ``flow_shift``.

    sigma = s u / (1 + (s - 1) u), u = 1/T ... 1: ``shift`` s moves the times toward noise (Esser et al.,
    https://arxiv.org/abs/2403.03206, eq. 23). Where the file says ``use_dynamic_shifting``, s = exp(mu), with mu a line
    through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift).

    Args:
        config: the file.
        name: of the file, for messages.
        image_tokens: patches that the network makes of a picture, for the dynamic shift.
    """
    steps = check_positive(f'num_train_timesteps of {name}', config.get('num_train_timesteps', 1000), integer=True)
    shift = check_positive(f'shift of {name}', config.get('shift', config.get('flow_shift', 1.0)))
    if config.get('use_dynamic_shifting', False):
        assert image_tokens is not None, 'a family whose shift is dynamic says how many patches there are'
        first, last = (check_positive(f'{k} of {name}', config.get(k, d)) for k, d in _TOKENS.items())
        low, high = (check_range(f'{k} of {name}', config.get(k, d)) for k, d in _SHIFTS.items())
        shift = math.exp(low + (high - low) * (image_tokens - first) / max(last - first, 1))
    u = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return shift * u / (1 + (shift - 1) * u)


def make_nemo_buffers(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tables that NeMo's (CompVis') DDPM keeps in its state: [T] each, float32."""
    betas = compute_betas(config)
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
