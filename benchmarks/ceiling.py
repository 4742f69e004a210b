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

"""How near any score could come: the recipe's field, renderer and VAE, pulled to the true scene instead of by a score.

    PYTHONPATH=benchmarks nemo-dreamfusion-bench suite=suite12 plugins=[ceiling] only=[ceiling] \
        '+rows.ceiling=[model.guidance._target_=ceiling.TrueViews]' out=results/ceiling

What this row misses is not the diffusion model's fault. The benchmark's true scenes are those of the pocket world.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.distillation.base import distillation_loss
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.parts.types import CameraBatch, GuidanceOutput, PromptSet, RenderOutput
from nemo_dreamfusion.pocket.metrics.views import FOV_Y_DEG
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import render as render_scene


class TrueViews(HuggingFaceGuidance):
    """Pulls the latents of a render to those of the true scene of its prompt, seen by the same camera."""

    def prepare(self, prompts: PromptSet, device: torch.device | str) -> None:
        super().prepare(prompts, device)
        self._scene = world.build_scene(world.normalize(prompts.prompt))

    def loss(
        self,
        render: RenderOutput,
        cameras: CameraBatch,
        *,
        latent: bool,
        generator: torch.Generator,
        **_: Any,
    ) -> GuidanceOutput:
        x0 = self.latents(render, latent=latent, generator=generator)
        with torch.no_grad():
            truth = self.latents(replace(render, image=self._see(render, cameras)), latent=latent, generator=generator)
            g = x0 - truth
        norm = g.flatten(1).norm(dim=1).mean()
        return GuidanceOutput(distillation_loss(x0, g), torch.zeros(len(x0), dtype=torch.long), norm)

    def _see(self, render: RenderOutput, cameras: CameraBatch) -> Tensor:
        """Return the albedo of the true scene before the render's backgrounds, each of one colour: [B, H, H, 3].

        A background is what the pixel shows in which the render has least of the object.
        """
        empty = render.opacity.flatten(1).argmin(1)
        ground = render.image.flatten(1, 2)[torch.arange(len(empty)), empty]
        size = render.image.shape[1]
        seen = render_scene(
            self._scene, cameras.camera_to_world.cpu(), size=size, fov_y_deg=FOV_Y_DEG, background=ground.cpu()
        )
        return seen.image.to(render.image)
