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


"""One step of a guidance by a small Stable Diffusion."""

from __future__ import annotations

from dataclasses import fields

import torch

from nemo_dreamfusion.checkpoints.own_weights import OwnParts
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.parts.types import PromptSet

PROMPTS = PromptSet('a red cube')


def guidance_of(source, **options) -> HuggingFaceGuidance:
    """A guidance; the fields of ``parts`` may stand among its options."""
    own = {field.name: options.pop(field.name) for field in fields(OwnParts) if field.name in options}
    return HuggingFaceGuidance(source=str(source), parts=OwnParts(**own), **options)


def prepared(folder, texts=PROMPTS, **options) -> HuggingFaceGuidance:
    guidance = guidance_of(folder, **options)
    guidance.prepare(texts, 'cpu')
    return guidance


def loss(guidance, render, cameras, *, latent=True, progress=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return guidance.loss(render, cameras, step=0, progress=progress, latent=latent, generator=generator)


def parameters_of(guidance) -> list[torch.nn.Parameter]:
    """Those of all networks that the guidance holds."""
    networks = [value for value in vars(guidance).values() if isinstance(value, torch.nn.Module)]
    return [parameter for network in networks for parameter in network.parameters()]
