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

"""Measure what a mean error of ε hides: whether the model knows which camera took a picture.

A noisy picture is explained under the right caption and under captions of turned and tilted cameras; the camera with the
least error is the one that the model recognises. Chance: 1 in 8 and 90 degrees for azimuths, 1 in 4 for elevations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.diffusion import NoiseSchedule
from nemo_dreamfusion.pocket.training.poses import told_pose
from nemo_dreamfusion.pocket.training.texts import mix_states, tokenize_views

TURNS_DEG = tuple(range(0, 360, 45))
ELEVATIONS_DEG = (-10.0, 15.0, 40.0, 75.0)
_BATCH = 64


@dataclass(frozen=True)
class Pictures:
    """N pictures that no training saw, of objects with a front; views of one object next to each other."""

    latents: Tensor  # [N, 4, h, w], scaled
    prompts: Sequence[str]  # N
    azimuth_deg: Tensor  # [N]
    elevation_deg: Tensor  # [N]

    def __len__(self) -> int:
        return len(self.prompts)


@torch.inference_mode()
def measure_recognition(
    model: nn.ModuleDict,
    tokenizer: Any,
    schedule: NoiseSchedule,
    pictures: Pictures,
    times: Sequence[int] = (700, 800, 900),
) -> dict[str, float]:
    """Return how well the model tells cameras apart, averaged over `times`.

    Args:
        model: ``unet`` and ``text_encoder``.
        tokenizer: of the captions.
        schedule: of 1000 times.
        pictures: renders that no training saw.
        times: the diffusion times, at which the picture is hardly visible.

    Returns:
        The measures by name.

        - ``error``: mean squared error of ε under the right camera.
        - ``error_turned``: the same under a camera turned by 180 degrees.
        - ``azimuth_right``, ``azimuth_error_deg``: share of pictures whose azimuth explains them best among eight, and
          how far off the best one is.
        - ``elevation_right``: share whose nearest of four elevations explains them best.
    """
    turned = torch.stack([pictures.azimuth_deg + turn for turn in TURNS_DEG])  # [8, N]
    level = pictures.elevation_deg.expand_as(turned)
    by_azimuth = _errors(model, tokenizer, schedule, pictures, turned, level, times)  # [8, N]
    tilted = torch.tensor(ELEVATIONS_DEG)[:, None].expand(-1, len(pictures))  # [4, N]
    facing = pictures.azimuth_deg.expand_as(tilted)
    by_elevation = _errors(model, tokenizer, schedule, pictures, facing, tilted, times)
    turn = torch.tensor(TURNS_DEG)[by_azimuth.argmin(0)]
    nearest = (tilted - pictures.elevation_deg).abs().argmin(0)
    return {
        'error': by_azimuth[0].mean().item(),
        'error_turned': by_azimuth[TURNS_DEG.index(180)].mean().item(),
        'azimuth_right': (turn == 0).float().mean().item(),
        'azimuth_error_deg': torch.minimum(turn, 360 - turn).float().mean().item(),
        'elevation_right': (by_elevation.argmin(0) == nearest).float().mean().item(),
    }


def _errors(
    model: nn.ModuleDict,
    tokenizer: Any,
    schedule: NoiseSchedule,
    pictures: Pictures,
    azimuth_deg: Tensor,
    elevation_deg: Tensor,
    times: Sequence[int],
) -> Tensor:
    """Return the mean squared error of ε of each picture under each of C cameras: two [C, N] -> [C, N]."""
    cameras, count = azimuth_deg.shape
    device = next(model.parameters()).device
    ids, weights = tokenize_views(
        tokenizer, list(pictures.prompts) * cameras, azimuth_deg.flatten(), elevation_deg.flatten()
    )
    states = torch.cat(
        [
            mix_states(model['text_encoder'], part.to(device), weight.to(device))
            for part, weight in zip(ids.split(_BATCH), weights.split(_BATCH))
        ]
    )
    poses = told_pose(model['unet'], azimuth_deg.flatten(), elevation_deg.flatten())
    total = torch.zeros(cameras * count)
    for time in times:
        noise = torch.randn(pictures.latents.shape, generator=torch.Generator().manual_seed(time))
        t = torch.full((count,), time)
        noisy = schedule.add_noise(pictures.latents, noise, t)
        told = schedule.network_times(t)
        for part in torch.arange(cameras * count).split(_BATCH):
            image = part % count
            inputs = (noisy[image].to(device), told[image].to(device), states[part.to(device)])
            pose = None if poses is None else poses[part].to(device)
            out = model['unet'](*inputs, class_labels=pose, return_dict=False)[0].float().cpu()
            total[part] += (schedule.epsilon(out, noisy[image], t[image]) - noise[image]).square().mean((1, 2, 3))
    return total.view(cameras, count) / len(times)
