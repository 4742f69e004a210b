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

"""Guidance by a Stable Diffusion in a NeMo ``.nemo`` archive, without NeMo's removed collection, apex or Megatron."""

from __future__ import annotations

from typing import Any

from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint, check_nemo_path
from nemo_dreamfusion.checkpoints.nemo_config import check_context_length
from nemo_dreamfusion.checkpoints.own_weights import OwnWeights, add_own_weights
from nemo_dreamfusion.modules.guidance.stable_diffusion import StableDiffusionGuidance


class NemoGuidance(StableDiffusionGuidance):
    """Score distillation from NeMo's Stable Diffusion: UNet, VAE, text encoder, schedule and scale of the archive.

    Args:
        checkpoint: path of the ``.nemo`` file.
        context_length: tokens to which text embeddings are padded with zeros: ``auto`` (as NeMo did, 77 to 80), or a
            number; 77 for weights that NeMo did not train and that were only converted.
        unnormalised_kv: reproduce the self-attention of NeMo v1.23 exactly; for weights that v1.23 trained, and refused for
            the layouts of other releases.
        text_heads: attention heads of the text encoder, where neither the archive nor its width tells.
        local_files_only: read the hub's cache only, for the tokenizer.
        parts: what is added; its tokenizer takes the place of the archive's own, or of the one that it names.
        options: everything else that :class:`StableDiffusionGuidance` takes.
    """

    def __init__(
        self,
        *,
        checkpoint: str,
        context_length: int | str | None = 'auto',
        unnormalised_kv: bool = False,
        text_heads: int | None = None,
        local_files_only: bool = False,
        parts: OwnWeights | None = None,
        **options: Any,
    ) -> None:
        check_nemo_path('model.guidance.checkpoint', checkpoint)
        check_context_length('model.guidance.context_length', context_length)
        parts = parts or OwnWeights()
        weights = NemoCheckpoint(
            checkpoint,
            tokenizer=parts.tokenizer,
            context_length=context_length,
            unnormalised_kv=unnormalised_kv,
            text_heads=text_heads,
            local_files_only=local_files_only,
        )
        super().__init__(weights=add_own_weights(weights, lora=parts.lora, embeddings=parts.embeddings), **options)
