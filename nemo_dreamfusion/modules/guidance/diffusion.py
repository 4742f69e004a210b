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


"""What a diffusion model is to score distillation: noise schedule, prediction types, weighting, predicted noise.

Notation: x_t = a x0 + sigma eps. Of a variance-preserving model a = sqrt(abar_t) and sigma = sqrt(1 - abar_t), with abar_t
the cumulative product of 1 - beta; of a rectified flow a = 1 - sigma. Scores are written against a and sigma alone.
x0 are latents [B, C, h, w]; t is [B] int64, a row of the table; everything here is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.checkpoints.noise_schedule import PREDICTION_TYPES, compute_betas, compute_flow_sigmas, is_flow
from nemo_dreamfusion.parts.checks import refuse

WEIGHTINGS = ('sds', 'uniform', 'fantasia3d', 'residual')
FLOW = 'flow_prediction'
_LEAST = 1e-4  # of a, which is a divisor: a schedule may end at pure noise

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t [N, C, h, w], time [N], context [N, L, D] -> [N, C, h, w]


@dataclass(frozen=True)
class NoiseSchedule:
    """How much signal and noise each diffusion time holds, and what the network predicts.

    >>> schedule = NoiseSchedule(a=torch.tensor([0.8]), sigma=torch.tensor([0.6]))
    >>> x0, noise, t = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 1.0), torch.tensor([0])
    >>> round(schedule.add_noise(x0, noise, t).item(), 4)  # 0.8 * 2 + 0.6 * 1
    2.2

    Attributes:
        a: [T], the share of x0 at each time, greater than 0.
        sigma: [T], the standard deviation of the noise.
        prediction_type: one of ``PREDICTION_TYPES``; ``v_prediction`` belongs to a^2 + sigma^2 = 1.
        times: [T], what the network is told at each time; None: the time itself.
    """

    a: Tensor
    sigma: Tensor
    prediction_type: str = 'epsilon'
    times: Tensor | None = None

    @classmethod
    def from_abar(cls, abar: Tensor, prediction_type: str = 'epsilon') -> NoiseSchedule:
        """Make the variance-preserving schedule of the cumulative products abar [T].

        >>> NoiseSchedule.from_abar(torch.tensor([0.64])).a
        tensor([0.8000])
        """
        abar = abar.clamp(min=_LEAST**2)
        return cls(a=abar.sqrt(), sigma=(1 - abar).sqrt(), prediction_type=prediction_type)

    @classmethod
    def flow(cls, sigma: Tensor, time_scale: float = 1000.0) -> NoiseSchedule:
        """Make the schedule of a rectified flow, a = 1 - sigma, whose network predicts eps - x0 and is told sigma.

        Liu et al., https://arxiv.org/abs/2209.03003.

        Args:
            sigma: [T], rising, at most 1.
            time_scale: the network is told ``time_scale`` sigma.
        """
        return cls(a=(1 - sigma).clamp(min=_LEAST), sigma=sigma, prediction_type=FLOW, times=sigma * time_scale)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, image_tokens: int | None = None) -> NoiseSchedule:
        """Read a diffusers ``scheduler_config.json``; what is not known is refused, never guessed.

        Args:
            config: the file.
            image_tokens: patches that the network makes of a picture, on which a flow may let its shift depend.
        """
        if is_flow(config):
            return cls.flow(compute_flow_sigmas(config, image_tokens=image_tokens).float())
        prediction_type = config.get('prediction_type', 'epsilon')
        if prediction_type not in PREDICTION_TYPES:
            refuse('prediction_type of the scheduler', prediction_type, f'one of {", ".join(PREDICTION_TYPES)}')
        return cls.from_abar(torch.cumprod(1 - compute_betas(config), 0).float(), prediction_type)

    def __len__(self) -> int:
        return self.a.shape[0]

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """Return the same schedule with its table on ``device``."""
        times = None if self.times is None else self.times.to(device)
        return replace(self, a=self.a.to(device), sigma=self.sigma.to(device), times=times)

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and sigma at times t [B], each [B, 1, 1, 1]."""
        return self.a[t].view(-1, 1, 1, 1), self.sigma[t].view(-1, 1, 1, 1)

    def network_times(self, t: Tensor) -> Tensor:
        """Return what the network is told at times t: [B], t itself or float32."""
        return t if self.times is None else self.times[t]

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = a x0 + sigma eps."""
        a, sigma = self.signal_and_noise(t)
        return a * x0 + sigma * noise

    def epsilon(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Convert the network's output [B, C, h, w] at x_t = ``noisy`` to predicted noise.

        From x_t = a x0 + sigma eps: eps = (x_t - a x0) / sigma; with v = a eps - sigma x0 (Salimans and Ho,
        https://arxiv.org/abs/2202.00512, app. D) eps = a v + sigma x_t; with u = eps - x0 eps = (x_t + a u) / (a + sigma).
        """
        a, sigma = self.signal_and_noise(t)
        if self.prediction_type == 'epsilon':
            return output
        if self.prediction_type == 'v_prediction':
            return a * output + sigma * noisy
        if self.prediction_type == FLOW:
            return (noisy + a * output) / (a + sigma)
        return (noisy - a * output) / sigma.clamp(min=1e-4)

    def velocity(self, output: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Convert the network's output [B, C, h, w] at x_t = ``noisy`` to a velocity: see :meth:`velocity_of`.

        With x0 = (x_t - sigma eps) / a the velocity v is (eps - sigma x_t) / a.
        """
        a, sigma = self.signal_and_noise(t)
        if self.prediction_type == 'epsilon':
            return (output - sigma * noisy) / a
        if self.prediction_type in ('v_prediction', FLOW):
            return output
        return (a * noisy - output) / sigma.clamp(min=1e-4)

    def velocity_of(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the velocity that a network of this schedule learns: eps - x0 of a flow, else v = a eps - sigma x0."""
        if self.prediction_type == FLOW:
            return noise - x0
        a, sigma = self.signal_and_noise(t)
        return a * noise - sigma * x0


class NoiseModel:
    """A frozen network as a predictor of noise: conversion, batching and precision in one place.

    Args:
        network: x_t [N, C, h, w], time [N], context [N, L, D] -> output [N, C, h, w], in any precision.
        schedule: its noise schedule, which also says what the output means.
    """

    def __init__(self, network: Network, schedule: NoiseSchedule) -> None:
        self.network, self.schedule = network, schedule

    @torch.no_grad()
    def outputs(self, noisy: Tensor, t: Tensor, contexts: Sequence[Tensor]) -> list[Tensor]:
        """Run the network on the same x_t under each context [B, L, D], in one batch.

        Returns:
            The network's own outputs, not converted: float32 [B, C, h, w] for each context.
        """
        rows = len(contexts)
        stacked = self.network(
            torch.cat([noisy] * rows),
            torch.cat([self.schedule.network_times(t)] * rows),
            torch.cat([context.to(noisy.device) for context in contexts]),
        )
        return list(to_float32(stacked).chunk(rows))

    def __call__(self, noisy: Tensor, t: Tensor, contexts: Sequence[Tensor]) -> list[Tensor]:
        """Predict the noise under each context: float32 [B, C, h, w] each, in the order of ``contexts``."""
        return [self.schedule.epsilon(output, noisy, t) for output in self.outputs(noisy, t, contexts)]


def weight(weighting: str, schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """Return w(t) [B, 1, 1, 1].

    ``sds`` is sigma^2 (DreamFusion), ``uniform`` 1, ``fantasia3d`` a sigma^2 (https://arxiv.org/abs/2303.13873) and
    ``residual`` sigma / a, with which the gradient of SDS is x0 minus the network's estimate of x0.

    >>> schedule = NoiseSchedule.from_abar(torch.tensor([0.64]))
    >>> [round(weight(name, schedule, torch.tensor([0])).item(), 3) for name in WEIGHTINGS]
    [0.36, 1.0, 0.288, 0.75]
    """
    a, sigma = schedule.signal_and_noise(t)
    return {
        'sds': sigma**2,
        'uniform': torch.ones_like(a),
        'fantasia3d': a * sigma**2,
        'residual': sigma / a,
    }[weighting]


def to_float32(output: Tensor) -> Tensor:
    """Copy a network's output to float32. The copy is needed: a recorded network overwrites its output at the next call."""
    return output.float().clone()


def random_normal(shape: Sequence[int], generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Draw standard normal numbers from the generator, on whatever device it lives, and move them to ``device``."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)
