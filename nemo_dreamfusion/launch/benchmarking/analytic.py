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

"""Score distillation where the answer is a formula: 2-D latents, a text that is a mixture of Gaussians with known scores.

Under the text, latents x0 [2] are drawn from 0.7 N(m1, s^2) + 0.3 N(m2, s^2); under the empty text from N(0, S^2). Noise at
time t makes each a mixture of the same weights about a m with the variance v = a^2 s^2 + sigma^2, whose noise prediction is
known: eps(x) = -sigma grad log p_t(x) = sigma sum_k r_k(x) (x - a m_k) / v, r_k the share of component k at x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing

EMPTY, TEXT = 0.0, 1.0  # what the only number of a context says
STABLE_DIFFUSION = {
    **{'beta_schedule': 'scaled_linear', 'beta_start': 0.00085, 'beta_end': 0.012},
    **{'num_train_timesteps': 1000, 'prediction_type': 'epsilon'},
}
_NODES = 60  # of the quadrature, each axis
_FIRST, _LAST, _RATE = 900, 20, 0.05  # times of the particles, and how far they go at each


@dataclass(frozen=True)
class Mixture:
    """A mixture of round Gaussians in the plane, K components."""

    weights: tuple[float, ...]
    means: tuple[tuple[float, float], ...]
    deviation: float

    def noise(self, x: np.ndarray, a: float, sigma: float) -> np.ndarray:
        """Return the noise in x [N, 2] = a x0 + sigma eps: its conditional mean [N, 2]."""
        variance = a**2 * self.deviation**2 + sigma**2
        apart = x[:, None] - a * np.array(self.means)  # [N, K, 2]
        logits = np.log(self.weights) - (apart**2).sum(-1) / (2 * variance)
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        return sigma * (share[..., None] * apart).sum(1) / variance


TEXT_MIXTURE = Mixture((0.7, 0.3), ((0.8, 0.3), (-0.6, -0.5)), 0.15)
EMPTY_MIXTURE = Mixture((1.0,), ((0.0, 0.0),), 1.0)
CLOUD = Mixture((1.0,), ((0.3, -0.2),), 0.4)  # what VSD's learned network knows of the renders
POINTS = ((0.0, 0.0), (0.8, 0.3), (-0.4, 0.6), (0.2, -0.9))
TIMES = (100, 400, 800)


class PlaneNetwork:
    """The exact network of the plane: x_t [N, 2, 1, 1], t [N], context [N, 1, 1] -> noise."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Predict the noise."""
        found = torch.empty_like(x)
        for time in t.unique().tolist():
            a, sigma = signal_and_noise(self.schedule, time)
            for word, mixture in ((EMPTY, EMPTY_MIXTURE), (TEXT, TEXT_MIXTURE)):
                rows = (context[:, 0, 0] == word) & (t == time)
                found[rows] = _image(mixture.noise(x[rows][..., 0, 0].double().numpy(), a, sigma))
        return found


class KnownCloud:
    """The learned network of VSD when it has learnt everything: the exact noise of a mixture."""

    def __init__(self, schedule: NoiseSchedule, mixture: Mixture = CLOUD) -> None:
        self.schedule, self.mixture = schedule, mixture

    def __call__(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise of the cloud."""
        a, sigma = signal_and_noise(self.schedule, int(t[0]))
        return _image(self.mixture.noise(noisy[..., 0, 0].double().numpy(), a, sigma))


def signal_and_noise(schedule: NoiseSchedule, t: int) -> tuple[float, float]:
    """Return a and sigma at a time."""
    a, sigma = schedule.signal_and_noise(torch.tensor([t]))
    return a.item(), sigma.item()


def measure_update(
    score: Score, mixing: GuidanceMixing, point: Sequence[float], t: int, draws: int = 20_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean gradient [2] of a score at a point over draws of its noise, and the standard error of that mean.

    A score with an attribute ``learned`` gets the exact network of ``CLOUD`` there.
    """
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    model = NoiseModel(PlaneNetwork(schedule), schedule)
    if hasattr(score, 'learned'):
        score.learned = KnownCloud(schedule)
    x0 = torch.tensor(point, dtype=torch.float32).view(1, 2, 1, 1).expand(draws, 2, 1, 1)
    conditioning = _conditioning(draws)
    generator = torch.Generator().manual_seed(seed)
    times = torch.full((draws,), t)
    found = score.gradient(x0, times, conditioning, model=model, mixing=mixing, generator=generator)[
        ..., 0, 0
    ].double()
    return found.mean(0).numpy(), (found.std(0) / draws**0.5).numpy()


def _conditioning(count: int) -> Conditioning:
    """Return the two texts; the empty one stands for one with words for faults, too."""
    empty, text = torch.full((count, 1, 1), EMPTY), torch.full((count, 1, 1), TEXT)
    pose = torch.zeros(count, 16)
    return Conditioning(text=text, unconditional=empty, empty=empty, plain=text, pose=pose, faulty=empty)


@dataclass(frozen=True)
class Formulas:
    """The expected gradients of the published scores at a point [2], by quadrature over the noise where that is random."""

    schedule: NoiseSchedule
    weighting: Callable[[Tensor], float]  # of a time [1]
    scale: float  # of the guidance
    interval: int = 50  # of ISM
    inversion_step: int = 200
    shift: float = 0.1  # of ASD
    start: float = 0.02

    def sds(self, x0: np.ndarray, t: int) -> np.ndarray:
        """Return w E[eps_guided]: the noise itself has the mean 0."""
        return self._expect(x0, t, self._guided)

    def csd(self, x0: np.ndarray, t: int) -> np.ndarray:
        """Return w s E[eps_text - eps_empty]."""
        return self._expect(x0, t, lambda x, a, b: self._guided(x, a, b) - EMPTY_MIXTURE.noise(x, a, b))

    def vsd(self, x0: np.ndarray, t: int) -> np.ndarray:
        """Return w E[eps_guided - eps_cloud]."""
        return self._expect(x0, t, lambda x, a, b: self._guided(x, a, b) - CLOUD.noise(x, a, b))

    def ism(self, x0: np.ndarray, t: int) -> np.ndarray:
        """Return w (eps_guided(x_t) - eps_empty(x_s)), in which x_s and x_t are multiples of x0.

        Under N(0, S^2) eps = sigma x / V, V = a^2 S^2 + sigma^2, so that a DDIM step from (a, sigma) to (a', sigma')
        multiplies x by a' / a (1 - sigma^2 / V) + sigma' sigma / V. Clean latents have a = 1 and no noise to take out.
        """
        s, factor, here = max(t - self.interval, 0), 1.0, 0
        for there in [*range(self.inversion_step, s, self.inversion_step), s]:
            factor *= self._step(here, there, clean=here == 0)
            here = there
        a, sigma = signal_and_noise(self.schedule, s)
        earlier = EMPTY_MIXTURE.noise(factor * x0[None], a, sigma)
        factor *= self._step(s, t)
        a, sigma = signal_and_noise(self.schedule, t)
        return (self._weight(t) * (self._guided(factor * x0[None], a, sigma) - earlier))[0]

    def asd(self, x0: np.ndarray, t: int) -> np.ndarray:
        """Return w E[eps_guided(x_t) - eps_text(x_u)]; u - t is the whole part of a number uniform up to ``most``."""
        most = self.shift * max(t - round(self.start * len(self.schedule)), 0)
        later = np.arange(max(int(np.ceil(most)), 1))
        chance = np.minimum(later + 1, most) - later if most else np.ones(1)
        control = [self._mean(x0, t + int(d), TEXT_MIXTURE.noise) for d in later]
        return self._weight(t) * (self._mean(x0, t, self._guided) - np.average(control, axis=0, weights=chance))

    def rfds(self, x0: np.ndarray, t: int) -> np.ndarray:
        """Return w E[v_guided - v] = w E[eps_guided] / a."""
        return self.sds(x0, t) / signal_and_noise(self.schedule, t)[0]

    def rfds_rev(self, x0: np.ndarray, t: int) -> np.ndarray:
        """Return w E[eps_guided(a x0 + sigma eps') - eps'] / a, eps' = eps_text(x_t)."""

        def value(x: np.ndarray, a: float, sigma: float) -> np.ndarray:
            seen = TEXT_MIXTURE.noise(x, a, sigma)
            return (self._guided(a * x0 + sigma * seen, a, sigma) - seen) / a

        return self._expect(x0, t, value)

    def _step(self, here: int, there: int, clean: bool = False) -> float:
        (a, sigma), (to_a, to_sigma) = (signal_and_noise(self.schedule, time) for time in (here, there))
        share = sigma / (a**2 * EMPTY_MIXTURE.deviation**2 + sigma**2)  # of x that is noise
        return to_a * (1 if clean else (1 - sigma * share) / a) + to_sigma * share

    def _weight(self, t: int) -> float:
        return self.weighting(torch.tensor([t]))

    def _guided(self, x: np.ndarray, a: float, sigma: float) -> np.ndarray:
        empty = EMPTY_MIXTURE.noise(x, a, sigma)
        return empty + self.scale * (TEXT_MIXTURE.noise(x, a, sigma) - empty)

    def _expect(self, x0: np.ndarray, t: int, value: Callable[[np.ndarray, float, float], np.ndarray]) -> np.ndarray:
        return self._weight(t) * self._mean(x0, t, value)

    def _mean(self, x0: np.ndarray, t: int, value: Callable[[np.ndarray, float, float], np.ndarray]) -> np.ndarray:
        """Return the mean of ``value`` at x_t over standard normal noise, by Gauss-Hermite quadrature."""
        a, sigma = signal_and_noise(self.schedule, t)
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        noise = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
        chance = np.outer(weights, weights).reshape(-1) / weights.sum() ** 2
        return (chance[:, None] * value(a * x0 + sigma * noise, a, sigma)).sum(0)


def compare(score: Score, mixing: GuidanceMixing, formula: Callable[[np.ndarray, int], np.ndarray]) -> dict[str, Any]:
    """Compare a score's mean gradient with its formula at ``POINTS`` and ``TIMES``.

    Returns:
        ``relative_error`` (the length of all differences by that of all formulas) and ``sigmas`` (the largest difference in
        standard errors of the measured mean; 0 where nothing is random).
    """
    differences, lengths, sigmas = [], [], [0.0]
    for t in TIMES:
        for point in POINTS:
            measured, error = measure_update(score, mixing, point, t)
            true = formula(np.array(point), t)
            differences.append(measured - true)
            lengths.append(true)
            sigmas.append(float(np.max(np.abs(measured - true) / np.maximum(error, 1e-4 * np.abs(true).max()))))
    return {
        'relative_error': float(np.linalg.norm(differences) / np.linalg.norm(lengths)),
        'sigmas': max(sigmas),
    }


def converge(score: Score, scale: float = 1.0, count: int = 256, steps: int = 600, seed: int = 0) -> np.ndarray:
    """Let particles, drawn from the empty text's N(0, S^2), follow a score while the time falls; return them [count, 2].

    Each step takes ``_RATE`` of sigma / a times the gradient without its weight, which for SDS is the way from x0 to the
    network's estimate of x0. VSD's learned network knows the particles exactly.
    """
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    model, mixing = NoiseModel(PlaneNetwork(schedule), schedule), GuidanceMixing(guidance_scale=scale)
    generator = torch.Generator().manual_seed(seed)
    x0 = EMPTY_MIXTURE.deviation * torch.randn(count, 2, 1, 1, generator=generator)
    conditioning = _conditioning(count)
    for step, t in enumerate(np.linspace(_FIRST, _LAST, steps).round().astype(int)):
        score.start_step(step / steps)
        if hasattr(score, 'learned'):
            places = tuple(map(tuple, x0[..., 0, 0].double().tolist()))
            score.learned = KnownCloud(schedule, Mixture((1 / count,) * count, places, 0.0))
        times = torch.full((count,), int(t))
        gradient = score.gradient(x0, times, conditioning, model=model, mixing=mixing, generator=generator)
        a, sigma = signal_and_noise(schedule, int(t))
        x0 = x0 - _RATE * sigma / a * gradient / score.weight(schedule, times)
    return x0[..., 0, 0].double().numpy()


def describe_particles(particles: np.ndarray) -> dict[str, float]:
    """Return the share of the particles near the first mode, and their deviation about the centre of their mode.

    The text's own answers are ``TEXT_MIXTURE.weights[0]`` and ``TEXT_MIXTURE.deviation``.
    """
    means = np.array(TEXT_MIXTURE.means)
    nearest = ((particles[:, None] - means) ** 2).sum(-1).argmin(1)
    parts = [particles[nearest == k] for k in range(len(means)) if (nearest == k).any()]
    squares = sum(((part - part.mean(0)) ** 2).sum() for part in parts)
    offset = max(float(np.linalg.norm(part.mean(0) - means[k])) for k, part in zip(sorted(set(nearest)), parts))
    return {
        'first_mode': float((nearest == 0).mean()),
        'deviation': float(np.sqrt(squares / (2 * len(particles)))),
        'offset': offset,
    }


def _image(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()[..., None, None]
