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

"""MVDream (Shi et al., https://arxiv.org/abs/2308.16512): four views of one object at once, each told its camera.

The UNet is Stable Diffusion's. Its self-attention runs over the tokens of the four views together, and the pose of the
camera is added to the embedding of the time (section 3.1).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.checkpoints.attention import multi_view_attention
from nemo_dreamfusion.checkpoints.configurations import CAMERA_NUMBERS
from nemo_dreamfusion.modules.guidance.families.base import append_vector, rows_for, split_vector
from nemo_dreamfusion.modules.guidance.families.sd import StableDiffusion
from nemo_dreamfusion.modules.guidance.guidance_mixing import Conditioning
from nemo_dreamfusion.modules.guidance.networks.base import UNet2DConditionModel, UNetLike, freeze
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.modules.guidance.networks.unet import NoisePredictor
from nemo_dreamfusion.parts.types import CameraBatch

VIEWS = 4
_APART_DEG = 360.0 / VIEWS
_TOLERANCE_DEG = 1.0  # a camera that looks past the centre stands a little elsewhere


class MVDream(StableDiffusion):
    """The family ``mvdream``; the camera lies behind the tokens of the context."""

    title = 'MVDream'
    views = VIEWS
    trains_unet = False
    _checked = False
    attention = ('sdpa',)

    def check_cameras(self, cameras: CameraBatch) -> None:
        """Refuse cameras that do not stand in groups of four, each a quarter of a turn on from the one before.

        Their angles are looked at in the first step alone where that means to wait for a GPU.
        """
        problem = f'MVDream looks at {VIEWS} views of one object, 90 degrees apart'
        if len(cameras) % VIEWS:
            raise ValueError(f'{problem}, and a step has {len(cameras)} cameras. Set model/data=four_views.')
        if self._checked and cameras.azimuth_deg.is_cuda:
            return
        steps = cameras.azimuth_deg.view(-1, VIEWS).diff(dim=1) - _APART_DEG
        if bool((((steps + 180.0) % 360.0 - 180.0).abs() > _TOLERANCE_DEG).any()):
            raise ValueError(f'{problem}, and the cameras of a step stand otherwise. Set model/data=four_views.')
        self._checked = True

    def condition(self, conditioning: Conditioning, cameras: CameraBatch) -> Conditioning:
        """Add the cameras."""
        poses = camera_numbers(cameras.camera_to_world)
        texts: dict[str, Any] = {
            name: append_vector(getattr(conditioning, name), poses)
            for name in ('text', 'unconditional', 'empty', 'plain', 'faulty')
            if getattr(conditioning, name) is not None
        }
        negatives = conditioning.negatives
        if negatives is not None:
            count = negatives.shape[1]
            flat = append_vector(negatives.flatten(0, 1), poses.repeat_interleave(count, 0))
            negatives = flat.unflatten(0, (-1, count))
        return dataclasses.replace(conditioning, negatives=negatives, **texts)

    def load_noise_predictor(self, dtype: torch.dtype, device: torch.device, options: NetworkOptions) -> UNetLike:
        return options.apply(freeze(self.predictor(self.weights.unet(dtype)), device))

    def predictor(self, network: nn.Module) -> Any:
        return MultiViewNoisePredictor(network)

    def context_shape(self) -> tuple[int, int]:
        length, width = super().context_shape()
        return length + rows_for(CAMERA_NUMBERS, width), width


class MultiViewNoisePredictor(NoisePredictor):
    """A UNet over views: x [N, C, h, w], t [N], context [N, L + rows, D] -> output [N, C, h, w].

    Args:
        unet: the network, in any precision; the views of one object stand next to each other in its batch.
        views: of one object.
    """

    def __init__(self, unet: UNet2DConditionModel, views: int = VIEWS) -> None:
        super().__init__(unet)
        unet.set_attn_processor(multi_view_attention(views))

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the UNet's output [N, C, h, w], in its own precision."""
        tokens, poses = split_vector(context.to(self.dtype), CAMERA_NUMBERS)
        return self.unet(x.to(self.dtype), t, encoder_hidden_states=tokens, class_labels=poses).sample


def camera_numbers(camera_to_world: Tensor) -> Tensor:
    """Return what MVDream is told of cameras [B, 4, 4]: [B, 16].

    It is the matrix in Blender's world, whose z points up (x, -z, y of ours), its position scaled to length 1, by rows.
    """
    x, y, z, last = camera_to_world.float().unbind(1)
    numbers = torch.stack([x, -z, y, last], 1)
    position = torch.nn.functional.normalize(numbers[:, :3, 3], dim=-1)
    return torch.cat([torch.cat([numbers[:, :3, :3], position[:, :, None]], -1), numbers[:, 3:]], 1).flatten(1)
