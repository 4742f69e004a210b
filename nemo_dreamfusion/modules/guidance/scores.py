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

"""Scores: from latents and the network's predictions to a gradient in latent space (descend along -g).

Nothing here carries a gradient itself; ``score_distillation.distillation_loss`` hands g to the latents. Guidance scale,
Perp-Neg and rescale are the guider's, so every score has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule, random_normal
from nemo_dreamfusion.modules.guidance.guiders import Conditioning, Guider
from nemo_dreamfusion.parts.checks import check_range, refuse

SCORES = ('sds', 'csd', 'ism', 'vsd')
Weight = Callable[[Tensor], Tensor]  # t [B] -> w(t) [B, 1, 1, 1]


class Score:
    """One way to turn a diffusion model's predictions into a gradient.

    Args:
        model: the frozen noise prediction.
        guider: combines the predictions under several texts.
        weight: w(t).
    """

    one_time_per_batch = False  # whether all images of a batch must share one t

    def __init__(self, model: NoiseModel, guider: Guider, weight: Weight) -> None:
        self.model, self.guider, self.weight = model, guider, weight

    def gradient(self, x0: Tensor, t: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
        """g [B, C, h, w] for latents x0 at times t [B]."""
        raise NotImplementedError

    def learn(self, x0: Tensor, conditioning: Conditioning, generator: torch.Generator) -> None:
        """Called once per step after :meth:`gradient`; scores with a network of their own train it here."""

    def state(self) -> dict[str, Any]:
        """What is learnt, for the checkpoint; empty where nothing is."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""


class ScoreDistillation(Score):
    """SDS (DreamFusion, arXiv 2209.14988): w (eps_guided - eps). 2 rows of the network per image."""

    def gradient(self, x0: Tensor, t: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
        """See :meth:`Score.gradient`; one draw of noise."""
        noise = random_normal(x0.shape, generator, x0.device)
        noisy = self.model.schedule.add_noise(x0, noise, t)
        return self.weight(t) * (self.guider(self.model, noisy, t, conditioning).guided - noise)


class ClassifierScore(Score):
    """CSD (arXiv 2310.19415): w (eps_guided - eps_unconditional), the classifier's part of SDS alone. 2 rows.

    The guidance scale is a pure factor; the noise only chooses x_t. It has no stationary point of its own where text and
    unconditional density are equally wide, so it needs the regularisers and an annealed time. A rescale would leave a part
    of the unconditional prediction in it and is refused.

    Of the paper's w1 eps_text + (w2 - w1) eps_empty - w2 eps_negative it is w2 = 0 without a negative prompt and w2 = w1
    with one; the paper's schedule of w2 between them is not offered.
    """

    def __init__(self, model: NoiseModel, guider: Guider, weight: Weight) -> None:
        super().__init__(model, guider, weight)
        check_rescale('csd', guider.rescale)

    def gradient(self, x0: Tensor, t: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
        """See :meth:`Score.gradient`; one draw of noise."""
        noise = random_normal(x0.shape, generator, x0.device)
        noisy = self.model.schedule.add_noise(x0, noise, t)
        found = self.guider(self.model, noisy, t, conditioning)
        return self.weight(t) * (found.guided - found.unconditional)


def check_rescale(score: str, rescale: float) -> None:
    """ValueError for a rescale where the score is a difference of predictions, of which it would change only one."""
    if score == 'csd' and rescale > 0:
        allowed = "0 with model.guidance.score=csd, which is the classifier's difference and has no scale to correct"
        refuse('model.guidance.guidance_rescale', rescale, allowed, 'Set model.guidance.guidance_rescale=0.')


class IntervalScore(Score):
    """ISM (LucidDreamer, arXiv 2311.11284): w (eps_guided(x_t) - eps_empty(x_s)), s = t - interval.

    x_s is x0 after DDIM inversion in steps of ``inversion_step`` under the empty text, x_t one more step from x_s with the
    noise predicted there. A negative prompt is for the guidance at x_t alone. No random numbers but t.
    max(1, ceil(s / inversion_step)) + 3 rows.

    Args:
        interval: t - s.
        inversion_step: largest step of the inversion.
    """

    one_time_per_batch = True

    def __init__(
        self, model: NoiseModel, guider: Guider, weight: Weight, *, interval: int = 50, inversion_step: int = 200
    ) -> None:
        super().__init__(model, guider, weight)
        self.interval = check_range('model.guidance.ism_interval', interval, 1, 999, integer=True)
        self.inversion_step = check_range('model.guidance.ism_inversion_step', inversion_step, 1, 999, integer=True)

    def gradient(self, x0: Tensor, t: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
        """See :meth:`Score.gradient`; all of t [B] are one time, and nothing is drawn."""
        s = (t - self.interval).clamp(min=0)
        earlier = self.invert(x0, int(s[0]), conditioning.empty)
        (inverted,) = self.model(earlier, s, [conditioning.empty])
        noisy = ddim_step(self.model.schedule, earlier, s, t, inverted)
        return self.weight(t) * (self.guider(self.model, noisy, t, conditioning).guided - inverted)

    def invert(self, x0: Tensor, until: int, context: Tensor) -> Tensor:
        """DDIM inversion of clean latents to the time ``until``: each step takes the noise predicted at its start.

        Args:
            x0: [B, C, h, w].
            until: the last time.
            context: [B, L, D], the text under which the noise is predicted.
        """
        nodes = [0, *range(self.inversion_step, until, self.inversion_step), until]
        x = x0
        for i, (here, there) in enumerate(zip(nodes, nodes[1:])):
            now, then = (torch.full((len(x0),), time, device=x0.device) for time in (here, there))
            (predicted,) = self.model(x, now, [context])
            x = ddim_step(self.model.schedule, x, None if i == 0 else now, then, predicted)
        return x


def ddim_step(schedule: NoiseSchedule, x: Tensor, now: Tensor | None, then: Tensor, predicted: Tensor) -> Tensor:
    """x at time ``now`` [B] (None: clean latents) moved to ``then`` [B] along the predicted noise (arXiv 2010.02502)."""
    clean = x
    if now is not None:
        a, sigma = schedule.signal_and_noise(now)
        clean = (x - sigma * predicted) / a
    a, sigma = schedule.signal_and_noise(then)
    return a * clean + sigma * predicted


class LearnedNoise(Protocol):
    """A noise prediction of the renders themselves, which learns while the object changes."""

    def __call__(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicted noise [B, C, h, w], float32."""

    def learn(self, x0: Tensor, conditioning: Conditioning, generator: torch.Generator) -> None:
        """One step toward the noise prediction of x0's distribution."""

    def state(self) -> dict[str, Any]:
        """What is learnt, for the checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""


class VariationalScore(Score):
    """VSD (ProlificDreamer, arXiv 2305.16213): w (eps_guided - eps_learned). 3 rows, and 1 with its backward pass to learn.

    Where the learned network is the frozen one it is (s - 1) times CSD, where it knows x0 exactly it is SDS.
    """

    def __init__(self, model: NoiseModel, guider: Guider, weight: Weight, *, learned: LearnedNoise) -> None:
        super().__init__(model, guider, weight)
        self.learned = learned

    def gradient(self, x0: Tensor, t: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
        """See :meth:`Score.gradient`; one draw of noise."""
        noise = random_normal(x0.shape, generator, x0.device)
        noisy = self.model.schedule.add_noise(x0, noise, t)
        guided = self.guider(self.model, noisy, t, conditioning).guided
        return self.weight(t) * (guided - self.learned(noisy, t, conditioning))

    def learn(self, x0: Tensor, conditioning: Conditioning, generator: torch.Generator) -> None:
        """One step of the learned network toward the latents x0 [B, C, h, w] of this render."""
        self.learned.learn(x0, conditioning, generator)

    def state(self) -> dict[str, Any]:
        """The learned network's."""
        return self.learned.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """To the learned network."""
        self.learned.load_state(state)
