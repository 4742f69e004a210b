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

"""Where the weights of a Stable Diffusion come from: one interface for every file format."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn


class Checkpoint(Protocol):
    """A Stable Diffusion on disk (or on the hub), opened part by part so that nothing is held longer than it is used.

    Every method raises a ValueError that says what is missing or damaged and what to set.
    """

    name: str  # for messages: where it comes from
    local_files_only: bool  # whether the hub may not be asked

    def check(self) -> None:
        """Refuse what cannot guide: missing files, and configurations that say what is not known. Loads no weights."""

    def tokenizer(self) -> Any:
        """Return a transformers CLIPTokenizer; ``model_max_length`` is the text encoder's length. Loads no weights."""

    def text_encoder(self, dtype: torch.dtype | None) -> nn.Module:
        """Load a transformers CLIPTextModel; None keeps the types of the stored tensors."""

    def unet(self, dtype: torch.dtype | None) -> nn.Module:
        """Load a diffusers UNet2DConditionModel; likewise."""

    def vae(self, dtype: torch.dtype | None) -> nn.Module:
        """Load a diffusers AutoencoderKL; likewise."""

    def scheduler_config(self) -> dict[str, Any]:
        """Return the noise schedule, with the keys of diffusers' ``scheduler_config.json``."""

    def context_length(self) -> int | None:
        """Return the tokens to which embeddings are padded with zeros before the UNet; None leaves them as they are."""

    def attends_unnormalised(self) -> bool:
        """Return whether the UNet's self-attention takes keys and values from un-normalised input, as in NeMo v1.23."""

    def is_openai_clip(self) -> bool:
        """Return whether the text encoder is OpenAI's (NeMo's FrozenCLIPEmbedder), and not Megatron's or OpenCLIP's."""

    def release(self) -> None:
        """Free what is held of the weights: everything needed has been taken."""
