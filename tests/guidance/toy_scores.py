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

"""Scores in the toy world: one gradient, at one time, from one seed."""

from __future__ import annotations

import dataclasses
import math

import torch

from nemo_dreamfusion.modules.guidance.diffusion import NoiseModel
from nemo_dreamfusion.modules.guidance.distillation.asd import AsynchronousScoreDistillation
from nemo_dreamfusion.modules.guidance.distillation.base import Score
from nemo_dreamfusion.modules.guidance.distillation.bridge import BridgeScore
from nemo_dreamfusion.modules.guidance.distillation.csd import ClassifierScoreDistillation
from nemo_dreamfusion.modules.guidance.distillation.dds import DeltaDenoisingScore
from nemo_dreamfusion.modules.guidance.distillation.ism import IntervalScoreMatching
from nemo_dreamfusion.modules.guidance.distillation.pds import PosteriorDistillationSampling
from nemo_dreamfusion.modules.guidance.distillation.rfds import RectifiedFlowDistillation
from nemo_dreamfusion.modules.guidance.distillation.rfds_rev import RevisedRectifiedFlowDistillation
from nemo_dreamfusion.modules.guidance.distillation.sdi import ScoreDistillationViaInversion
from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing

SCORES = {
    'sds': ScoreDistillationSampling,
    'csd': ClassifierScoreDistillation,
    'ism': IntervalScoreMatching,
    'vsd': VariationalScoreDistillation,
    'sdi': ScoreDistillationViaInversion,
    'asd': AsynchronousScoreDistillation,
    'bridge': BridgeScore,
    'dds': DeltaDenoisingScore,
    'pds': PosteriorDistillationSampling,
    'rfds': RectifiedFlowDistillation,
    'rfds_rev': RevisedRectifiedFlowDistillation,
}
HALF = math.sqrt(0.5)
CURVE = torch.linspace(0.9991, 0.01, 1000, dtype=torch.float64).tolist()


class Delta:
    """A learned network that knows x0 exactly: the noise is what was added."""

    def __init__(self, schedule, x0):
        self.schedule, self.x0 = schedule, x0

    def __call__(self, noisy, t, conditioning):
        a, sigma = self.schedule.signal_and_noise(t)
        return (noisy - a * self.x0) / sigma


class Same:
    """A learned network that is still the frozen one."""

    def __init__(self, toy):
        self.toy = toy

    def __call__(self, noisy, t, conditioning):
        return self.toy.model(noisy, t, [conditioning.text])[0]


@dataclasses.dataclass
class Made:
    """A score with the toy's model and a mixing."""

    score: Score
    model: NoiseModel
    mixing: GuidanceMixing

    def gradient(self, x0, t=0, *, texts, seed=0):
        """At one time for all images."""
        times, generator = torch.full((len(x0),), t, dtype=torch.int64), torch.Generator().manual_seed(seed)
        return self.score.gradient(x0, times, texts, model=self.model, mixing=self.mixing, generator=generator)


def make(toy, kind, *, scale=1.0, weighting='uniform', rescale=0.0, learned=None, **options) -> Made:
    score = SCORES[kind](weighting=weighting, **options)
    mixing = GuidanceMixing(guidance_scale=scale, guidance_rescale=rescale)
    score.check_mixing(mixing)
    if kind == 'vsd':
        score.learned = learned or Same(toy)
    return Made(score, toy.model, mixing)


def column(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)
