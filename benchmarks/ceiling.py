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

"""What the recipe's field, renderer and VAE reach when they are shown the true scene in the place of a score.

    PYTHONPATH=benchmarks nemo-dreamfusion-bench suite=suite12 'plugins=[ceiling]' 'only=[ceiling]' \
        '+rows.ceiling=[model.guidance._target_=ceiling.TrueViews]' out=results/ceiling

The true scenes are those of the pocket world. It is one loss, of latents, beside the recipe's own regularisers: no bound for
a score, but a measure of how much of an error is the diffusion model's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.distillation.base import distillation_loss
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import CameraBatch, GuidanceOutput, PromptSet, RenderOutput
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import render as render_scene


class TrueViews(HuggingFaceGuidance):
    """Pulls the latents of a render to those of the true scene of its prompt, seen by the same camera."""

    def prepare(self, prompts: PromptSet, device: torch.device | str) -> None:
        if self.latent_options.latent_map != 'linear':
            refuse(
                'model.guidance.latents.latent_map',
                self.latent_options.latent_map,
                'linear: only colours are compared',
            )
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
        views = [self._see_one(cameras[i : i + 1], ground[i].cpu()) for i in range(len(cameras))]
        return torch.cat(views).to(render.image)

    def _see_one(self, camera: CameraBatch, ground: Tensor) -> Tensor:
        pose, fov = camera.camera_to_world.cpu(), math.degrees(float(camera.fov_y_rad))
        return render_scene(self._scene, pose, size=camera.height, fov_y_deg=fov, background=ground).image
