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

"""Random numbers of a model: of its first weights, of a step, of a step's lights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nemo_dreamfusion.parts.types import CameraBatch, Light

ALL_RANKS = 1_000_002  # in the seed of what all ranks share; no rank has this number


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the first weights from the seed alone, and leave torch's global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def seed_of_step(seed: int, rank: int, step: int) -> int:
    """Return the seed of a step's own random numbers; ``rank`` may be ``ALL_RANKS``."""
    return ((seed * 1_000_003 + rank) * 10_000_019 + step) % 2**63


def sample_light(cameras: CameraBatch, ambient: float, generator: torch.Generator) -> Light:
    """Draw a distant light for each camera: its position moved by a unit Gaussian (DreamFusion, appendix A.2)."""
    place = cameras.camera_to_world[:, :3, 3]
    place = place + torch.randn(place.shape, device=place.device, generator=generator)
    return Light(direction=torch.nn.functional.normalize(place, dim=-1), ambient=ambient)
