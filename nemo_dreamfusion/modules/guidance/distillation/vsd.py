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


"""VSD, variational score distillation (ProlificDreamer): Wang et al., https://arxiv.org/abs/2305.16213."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel, NoiseSchedule, random_normal
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.distillation.lora import LoraNoise
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning, GuidanceMixing
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor
from nemo_dreamfusion.parts.checks import check_positive


class LearnedNoise(Protocol):
    """A noise prediction of the renders themselves, which learns while the object changes."""

    def __call__(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise in x_t = ``noisy``: [B, C, h, w], float32."""

    def learn(self, x0: Tensor, conditioning: Conditioning, generator: torch.Generator) -> None:
        """Make one step toward the noise prediction of x0's distribution."""

    def state(self) -> dict[str, Any]:
        """Return what is learnt, for the checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""


class VariationalScoreDistillation(Score):
    """g = w (eps_guided - eps_learned). Three rows of the network per image, and one with its backward pass to learn.

    Where the learned network is the frozen one it is (s - 1) times CSD; where it knows x0 exactly it is SDS.

    Args:
        rank: of the low-rank adapters that are learnt inside the UNet.
        learning_rate: of their AdamW.
        options: of :class:`Score`.
    """

    trains_unet = True

    def __init__(self, *, rank: int = 4, learning_rate: float = 1e-4, **options: Any) -> None:
        super().__init__(**options)
        self.rank = check_positive('model.guidance.score.rank', rank, integer=True)
        self.learning_rate = check_positive('model.guidance.score.learning_rate', learning_rate)
        self.learned: LearnedNoise | None = None

    def prepare(self, schedule: NoiseSchedule, predictor: NoisePredictor | None) -> None:
        """Put the adapters into the UNet."""
        assert predictor is not None, 'the guidance refuses a score that trains the UNet where there is none'
        self.learned = LoraNoise(predictor, schedule, rank=self.rank, learning_rate=self.learning_rate)

    def gradient(
        self,
        x0: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        model: NoiseModel,
        mixing: GuidanceMixing,
        generator: torch.Generator,
    ) -> Tensor:
        noise = random_normal(x0.shape, generator, x0.device)
        noisy = model.schedule.add_noise(x0, noise, t)
        guided = mixing.predict(model, noisy, t, conditioning).guided
        return self.weight(model.schedule, t) * (guided - self._learned()(noisy, t, conditioning))

    def learn(self, x0: Tensor, conditioning: Conditioning, generator: torch.Generator) -> None:
        self._learned().learn(x0, conditioning, generator)

    def state(self) -> dict[str, Any]:
        return self._learned().state()

    def load_state(self, state: dict[str, Any]) -> None:
        self._learned().load_state(state)

    def _learned(self) -> LearnedNoise:
        assert self.learned is not None, 'prepare makes the learned network'
        return self.learned
