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


"""A diffusion model of Gaussian data, whose noise prediction is known exactly."""

from __future__ import annotations

import dataclasses

import torch

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning


class ToyNetwork:
    """The exact answer for Gaussian data N(mu, s0^2), which the context [N, 1, 2] carries: eps = sigma (x_t - a mu) / V.

    V = a^2 s0^2 + sigma^2. ``speaks`` says in which of the prediction types it answers; ``rows`` counts its work.
    """

    def __init__(self, schedule: NoiseSchedule, *, speaks: str = 'epsilon', shift: float = 0.0) -> None:
        self.schedule, self.speaks, self.shift, self.rows = schedule, speaks, shift, 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        mu, s0 = (context[:, 0, i].view(-1, 1, 1, 1) for i in (0, 1))
        a, sigma = self.schedule.signal_and_noise(t)
        eps = sigma * (x - a * mu) / (a**2 * s0**2 + sigma**2) + self.shift
        x0 = (x - sigma * eps) / a
        answers = {'epsilon': eps, 'v_prediction': a * eps - sigma * x0, 'sample': x0, 'flow_prediction': eps - x0}
        return answers[self.speaks]


class Toy:
    """A world of Gaussians: by default a = sigma = sqrt(.5) at every time, or any table of abar, or a flow's of sigma."""

    def __init__(
        self, abar=(0.5,), *, flow=None, speaks: str = 'epsilon', read_as: str | None = None, shift: float = 0.0
    ) -> None:
        if flow is None:
            self.schedule = NoiseSchedule.from_abar(torch.tensor(abar, dtype=torch.float64), read_as or speaks)
        else:
            self.schedule, speaks = NoiseSchedule.flow(torch.tensor(flow, dtype=torch.float64)), 'flow_prediction'
        self.network = ToyNetwork(self.schedule, speaks=speaks, shift=shift)
        told = dataclasses.replace(self.schedule, times=None)  # the toy looks its own table up
        self.model = NoiseModel(self._in_double, told)

    def _in_double(self, x, t, context):
        return _Double(self.network(x, t, context))

    @staticmethod
    def text(mu: float, s0: float = 0.5, batch: int = 1) -> torch.Tensor:
        """A context [batch, 1, 2]."""
        return torch.tensor([[[mu, s0]]], dtype=torch.float64).expand(batch, 1, 2)

    @classmethod
    def texts(cls, batch=1, *, mu=1.0, s0=0.5, mu_null=0.0, s_null=0.5, negatives=(), weights=()) -> Conditioning:
        """A text N(mu, s0^2), an empty and unconditional text N(mu_null, s_null^2), and negatives with their weights."""
        extra = {}
        if negatives:
            extra['negatives'] = torch.stack([cls.text(m, s, batch) for m, s in negatives], 1)
            extra['negative_weights'] = torch.tensor([weights], dtype=torch.float64).expand(batch, -1)
        return conditioning_of(cls.text(mu, s0, batch), cls.text(mu_null, s_null, batch), **extra)


def conditioning_of(text: torch.Tensor, unconditional: torch.Tensor, **others) -> Conditioning:
    """Texts of which the unconditional one is empty; the prompt without a view is the text, no camera is known."""
    others = {'empty': unconditional, 'plain': text, 'pose': torch.zeros(len(text), 16), **others}
    return Conditioning(text=text, unconditional=unconditional, **others)


class _Double(torch.Tensor):
    """Float64 that stays so where the package rounds to float32: the toys' answers are checked to many digits."""

    def float(self):
        return self.as_subclass(torch.Tensor)
