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

"""The mathematics of score distillation, without any network: noise schedule, prediction types, guidance, loss.

Notation: abar_t the cumulative product of 1 - beta, a = sqrt(abar_t), sigma = sqrt(1 - abar_t), x_t = a x0 + sigma eps.
x0 are latents [B, C, h, w]; t is [B] int64; everything here is float32 and per image.

DreamFusion: Poole et al., https://arxiv.org/abs/2209.14988.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.checkpoints.noise_schedule import betas_of
from nemo_dreamfusion.parts.checks import refuse

PREDICTION_TYPES = ('epsilon', 'v_prediction', 'sample')
WEIGHTINGS = ('sds', 'uniform', 'fantasia3d', 'residual')

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t [N, C, h, w], t [N], context [N, L, D] -> [N, C, h, w]


@dataclass(frozen=True)
class NoiseSchedule:
    """How much noise each diffusion time holds, and what the network says of it.

    abar: [T] cumulative products, float32.
    prediction_type: one of ``PREDICTION_TYPES``.
    """

    abar: Tensor
    prediction_type: str = 'epsilon'

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """The schedule of a diffusers ``scheduler_config.json``; what is not known is refused, never guessed."""
        prediction_type = config.get('prediction_type', 'epsilon')
        if prediction_type not in PREDICTION_TYPES:
            refuse('prediction_type of the scheduler', prediction_type, f'one of {", ".join(PREDICTION_TYPES)}')
        return cls(abar=torch.cumprod(1 - betas_of(config), 0).float(), prediction_type=prediction_type)

    def __len__(self) -> int:
        return self.abar.shape[0]

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same schedule with its table on ``device``."""
        return NoiseSchedule(self.abar.to(device), self.prediction_type)

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and sigma at times t [B], each [B, 1, 1, 1]; a is kept above 1e-4 (a schedule may end at pure noise)."""
        abar = self.abar[t].clamp(min=1e-8).view(-1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = a x0 + sigma eps."""
        a, sigma = self.signal_and_noise(t)
        return a * x0 + sigma * noise

    def epsilon(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The network's output [B, C, h, w] as predicted noise.

        From x_t = a x0 + sigma eps and v = a eps - sigma x0 (Salimans and Ho, https://arxiv.org/abs/2202.00512):
        eps = a v + sigma x_t, and eps = (x_t - a x0) / sigma.
        """
        a, sigma = self.signal_and_noise(t)
        if self.prediction_type == 'epsilon':
            return output
        if self.prediction_type == 'v_prediction':
            return a * output + sigma * noisy
        return (noisy - a * output) / sigma.clamp(min=1e-4)

    def velocity(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The network's output [B, C, h, w] as v = a eps - sigma x0, which of eps and x_t is (eps - sigma x_t) / a."""
        a, sigma = self.signal_and_noise(t)
        if self.prediction_type == 'epsilon':
            return (output - sigma * noisy) / a
        if self.prediction_type == 'v_prediction':
            return output
        return (a * noisy - output) / sigma.clamp(min=1e-4)


class NoiseModel:
    """A frozen network as a predictor of noise: conversion, batching and precision in one place.

    Args:
        network: x_t [N, C, h, w], t [N], context [N, L, D] -> output [N, C, h, w], in any precision.
        schedule: its noise schedule, which also says what the output means.
    """

    def __init__(self, network: Network, schedule: NoiseSchedule) -> None:
        self.network, self.schedule = network, schedule

    @torch.no_grad()
    def outputs(self, noisy: Tensor, t: Tensor, contexts: Sequence[Tensor]) -> list[Tensor]:
        """What the network says of the same x_t under each context [B, L, D], in one batch: float32 [B, C, h, w] each."""
        rows = len(contexts)
        stacked = self.network(
            torch.cat([noisy] * rows),
            torch.cat([t] * rows),
            torch.cat([context.to(noisy.device) for context in contexts]),
        )
        return list(copied(stacked).chunk(rows))

    def __call__(self, noisy: Tensor, t: Tensor, contexts: Sequence[Tensor]) -> list[Tensor]:
        """Predicted noise under each context: float32 [B, C, h, w] each, in the order of ``contexts``."""
        return [self.schedule.epsilon(output, noisy, t) for output in self.outputs(noisy, t, contexts)]


def classifier_free_guidance(text: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale (text - unconditional), [B, C, h, w] all; scale 1 is plain text.

    (Papers that write 1 + w mean scale = 1 + w.)
    """
    return unconditional + scale * (text - unconditional)


def weight(weighting: str, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """w(t) [B, 1, 1, 1]: ``sds`` sigma^2 (DreamFusion), ``uniform`` 1, ``fantasia3d`` a sigma^2, ``residual`` sigma / a.

    With ``residual`` the gradient of SDS is x0 minus the network's guess of x0.
    """
    a, sigma = schedule.signal_and_noise(t)
    return {
        'sds': sigma**2,
        'uniform': torch.ones_like(a),
        'fantasia3d': a * sigma**2,
        'residual': sigma / a,
    }[weighting]


def tame(gradient: Tensor, limit: float | None = None) -> Tensor:
    """The gradient [B, C, h, w], NaN as zero; with a limit each element clamped to +-limit, else infinity as zero.

    The clamp is that of arXiv 2303.15413. Where nothing is finite it stays as it is: the step is then skipped and counted,
    where zeros would hide a network that has overflowed.
    """
    gradient = gradient.float()
    infinity = limit or 0.0
    finite = torch.nan_to_num(gradient, nan=0.0, posinf=infinity, neginf=-infinity)
    finite = torch.where(gradient.isfinite().any(), finite, gradient)
    return finite if limit is None else finite.clamp(-limit, limit)


def distillation_loss(x0: Tensor, gradient: Tensor) -> Tensor:
    """0.5 |x0 - sg(x0 - g)|^2 / B, a scalar whose derivative with respect to x0 is g / B.

    Args:
        x0: [B, C, h, w], float32 or better only.
        gradient: g [B, C, h, w].
    """
    if x0.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f'distillation_loss needs float32 latents, not {x0.dtype}: small gradients would be rounded away.'
        )
    target = (x0 - gradient).detach()
    return 0.5 * ((x0 - target) ** 2).sum() / x0.shape[0]


def copied(output: Tensor) -> Tensor:
    """A network's output in float32, in memory of its own: a recorded network writes the next one where this one stands."""
    return output.float().clone()


def random_normal(shape: Sequence[int], generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Standard normal numbers from the generator, wherever it lives, on ``device``."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)
