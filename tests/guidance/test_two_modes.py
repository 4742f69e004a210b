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

"""A world of two modes: what each score makes of data with more than one answer."""

from __future__ import annotations

import pytest
import torch
from guidance.toy_world import conditioning_of

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule
from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing

MODES, WIDTH = (-2.0, 2.0), 0.3  # .5 N(-2, .3^2) + .5 N(2, .3^2)
NO_TEXT = torch.zeros(1, 1, 1)


class TwoModes:
    """The exact noise prediction for the mixture: eps = sigma sum_k r_k (x_t - a mu_k) / V, r_k the modes' shares."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        a, sigma = self.schedule.signal_and_noise(t)
        variance = a**2 * WIDTH**2 + sigma**2
        away = torch.stack([x - a * mode for mode in MODES])
        shares = (-(away**2) / (2 * variance)).softmax(0)
        return sigma * (shares * away).sum(0) / variance


def gradient(score, schedule, x0, t, seed=0):
    texts = NO_TEXT.expand(len(x0), -1, -1)
    model, mixing = NoiseModel(TwoModes(schedule), schedule), GuidanceMixing(guidance_scale=1.0)
    generator = torch.Generator().manual_seed(seed)
    return score.gradient(x0, t, conditioning_of(texts, texts), model=model, mixing=mixing, generator=generator)


def test_the_prediction_is_that_of_the_mixture():
    half = NoiseSchedule.from_abar(torch.tensor([0.5], dtype=torch.float64))
    eps = TwoModes(half)(torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64), torch.zeros(1, dtype=torch.int64))
    assert eps.item() == pytest.approx(-0.832120, abs=1e-6)


def zero_of_sds(schedule, first: int, last: int) -> float:
    """Where the mean gradient of SDS over t = first .. last vanishes on the right of 0.1, by bisection on fixed draws."""
    score = ScoreDistillationSampling()
    t = torch.arange(first, last + 1).repeat(-(-100_000 // (last + 1 - first)))
    low, high = 0.1, 3.0
    for _ in range(12):
        middle = (low + high) / 2
        pulls_left = gradient(score, schedule, torch.full((len(t), 1, 1, 1), middle), t).mean() > 0
        low, high = (low, middle) if pulls_left else (middle, high)
    return (low + high) / 2


@pytest.mark.parametrize(('last', 'expected'), [(300, 1.987), (500, 1.768), (980, 0.923)])
def test_sds_finds_the_mode_only_where_times_are_small(stable_diffusion_schedule, last, expected):
    assert zero_of_sds(stable_diffusion_schedule, 20, last) == pytest.approx(expected, abs=0.03)


def test_at_one_middle_time_sds_ends_between_the_modes(stable_diffusion_schedule):
    assert zero_of_sds(stable_diffusion_schedule, 500, 500) < 0.11  # the lower end of the search


def test_vsd_with_the_exact_score_of_its_particles_fills_both_modes(stable_diffusion_schedule):
    class Empirical:
        """The noise prediction of the particles themselves: sum_i r_i (x_t - a x_i) / sigma."""

        particles = torch.linspace(-4, 4, 128).view(-1, 1, 1, 1)

        def __call__(self, noisy, t, conditioning):
            a, sigma = stable_diffusion_schedule.signal_and_noise(t)
            away = noisy.view(-1, 1) - a.view(-1, 1) * self.particles.view(1, -1)
            shares = (-(away**2) / (2 * sigma.view(-1, 1) ** 2)).softmax(1)
            return (shares * away).sum(1).view_as(noisy) / sigma

    vsd = VariationalScoreDistillation()
    vsd.learned = learned = Empirical()
    generator = torch.Generator().manual_seed(0)
    for step in range(3000):
        t = torch.randint(20, 501, (128,), generator=generator)
        learned.particles = learned.particles - 0.2 * gradient(
            vsd, stable_diffusion_schedule, learned.particles, t, step
        )
    left, right = (learned.particles[learned.particles * side > 0] for side in (-1, 1))
    assert len(left) == len(right) == 64
    for mode, found in zip(MODES, (left, right)):
        assert found.mean().item() == pytest.approx(mode, abs=0.05)
        assert found.std().item() == pytest.approx(WIDTH, abs=0.05)
