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

"""The guidance that knows the truth: no gradient at the true scene, whatever the background, and one toward it elsewhere."""

from dataclasses import replace

import pytest
import torch

from nemo_dreamfusion.data.cameras import cameras_from_orbit
from nemo_dreamfusion.parts.types import PromptSet, RenderOutput
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import render


@pytest.fixture(scope='module')
def cameras():
    angle = torch.tensor([30.0, -120.0])
    return cameras_from_orbit(angle, angle / 4, torch.full((2,), 3.2), torch.full((2,), 36.0), 64, 64)


def look_at(prompt, cameras, background):
    seen = render(world.build_scene(prompt), cameras.camera_to_world, size=64, background=torch.tensor(background))
    opacity = seen.opacity[..., None]
    return RenderOutput(seen.image.requires_grad_(), opacity, torch.zeros_like(opacity), None)


@pytest.mark.parametrize('latent', [True, False])
def test_the_true_scene_has_no_gradient_and_another_is_pulled_to_it(module, cameras, latent):
    guidance = module('ceiling').TrueViews(source='pocket')
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    asked = dict(step=0, progress=0.0, latent=latent, generator=torch.Generator().manual_seed(0))
    backgrounds = [[0.2, 0.4, 0.6], [1.0, 1.0, 1.0]]
    same, other = (look_at(prompt, cameras, backgrounds) for prompt in ('a red cube', 'a blue cube'))
    assert guidance.loss(same, cameras, **asked).loss.item() == pytest.approx(0, abs=1e-6)
    guidance.loss(other, cameras, **asked).loss.backward()
    nearer = other.image - 1e-4 * other.image.grad / other.image.grad.abs().max()
    losses = [guidance.loss(replace(other, image=image), cameras, **asked).loss for image in (other.image, nearer)]
    assert losses[1] < losses[0]
    assert guidance.loss(other, cameras, **asked).gradient_norm > 1
