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

"""Guidance by any Stable Diffusion in diffusers' format: a folder, a hub repository, or the one in the package."""

from __future__ import annotations

from typing import Any

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.families import FAMILIES
from nemo_dreamfusion.checkpoints.own_weights import OwnParts, add_own_weights
from nemo_dreamfusion.modules.guidance.stable_diffusion import StableDiffusionGuidance


class HuggingFaceGuidance(StableDiffusionGuidance):
    """Score distillation from a model of a known family, safetensors only; which it is, its files say.

    Args:
        source: a local folder in diffusers' format, a whole model in one file of the original layout, a hub id, or
            ``pocket`` (the small model inside this package).
        revision: branch, tag or commit of the hub repository.
        variant: infix of the weight files, such as ``fp16``.
        local_files_only: never ask the hub, read its cache only.
        parts: what is added, exchanged or left out.
        options: everything else that :class:`StableDiffusionGuidance` takes.
    """

    def __init__(
        self,
        *,
        source: str = 'stable-diffusion-v1-5/stable-diffusion-v1-5',
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        parts: OwnParts | None = None,
        **options: Any,
    ) -> None:
        parts = parts or OwnParts()
        weights = DiffusersCheckpoint(
            source,
            revision=revision,
            variant=variant,
            local_files_only=local_files_only,
            variant_setting='model.guidance.variant',
            families=tuple(FAMILIES),
            without=parts.without or (),
            unet=parts.unet,
            tokenizer=parts.tokenizer,
        )
        super().__init__(weights=add_own_weights(weights, lora=parts.lora, embeddings=parts.embeddings), **options)
