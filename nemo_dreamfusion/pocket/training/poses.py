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

"""What a UNet of several views is told of the cameras, and its samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.families.mvdream import camera_numbers
from nemo_dreamfusion.pocket.training.networks import tokenize
from nemo_dreamfusion.pocket.world.render import CameraRange, look_at_origin


def has_camera(unet: nn.Module) -> bool:
    """Return whether a UNet is told the cameras of several views."""
    return getattr(unet, 'class_embedding', None) is not None


def told_pose(unet: nn.Module, azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor | None:
    """Return MVDream's numbers of the cameras: two [B] -> [B, 16]; None for a UNet that is told none."""
    if not has_camera(unet):
        return None
    distance = torch.full_like(azimuth_deg, CameraRange().mean_distance)  # only the direction is told
    return camera_numbers(look_at_origin(azimuth_deg, elevation_deg, distance))


@torch.inference_mode()
def sample_views(
    pipeline: Any,
    captions: list[str],
    azimuth_deg: Tensor,
    elevation_deg: Tensor,
    *,
    seed: int,
    steps: int,
    scale: float,
) -> Tensor:
    """Sample the views of one object together, with classifier-free guidance.

    diffusers' StableDiffusionPipeline has no way to tell its UNet the cameras.

    Args:
        pipeline: the components.
        captions: B, one for each view.
        azimuth_deg, elevation_deg: of the cameras [B].
        seed: of the noise.
        steps: of the scheduler.
        scale: of the guidance, 1 for none.

    Returns:
        RGB in [0, 1], [B, S, S, 3].
    """
    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    ids = tokenize(pipeline.tokenizer, [''] * len(captions) + captions).to(unet.device)
    states = pipeline.text_encoder(ids).last_hidden_state
    pose = told_pose(unet, azimuth_deg, elevation_deg)
    poses = None if pose is None else pose.to(unet.device).repeat(2, 1)
    size = unet.config.sample_size
    latents = torch.randn(len(captions), 4, size, size, generator=torch.Generator().manual_seed(seed)).to(unet.device)
    scheduler.set_timesteps(steps)
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        rows = scheduler.scale_model_input(latents.repeat(2, 1, 1, 1), t)
        without, under = unet(rows, t, states, class_labels=poses, return_dict=False)[0].chunk(2)
        latents = scheduler.step(without + scale * (under - without), t, latents, return_dict=False)[0]
    images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    return images.add(1).div(2).clamp(0, 1).permute(0, 2, 3, 1).cpu()
