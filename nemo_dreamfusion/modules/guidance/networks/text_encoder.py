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


"""The text encoder: tokens give the embeddings that the UNet attends to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.networks.base import CLIPTextModel, FrozenNetwork


class TextEncoder(FrozenNetwork):
    """A CLIP text model: tokens [n, L] -> embeddings [n, L', D], L' = max(L, context_length).

    Args:
        model: the network, in any precision.
        context_length: tokens to which the embeddings are padded with zeros; None leaves them as they are.
    """

    INPUTS = ('tokens',)
    OUTPUT_DIMS = 3

    def __init__(self, model: CLIPTextModel, context_length: int | None = None) -> None:
        super().__init__()
        self.model, self.context_length = model, context_length

    def _examples(self, batch: int = 2) -> dict[str, Tensor]:
        length = self.model.config.max_position_embeddings
        return {'tokens': torch.zeros(batch, length, dtype=torch.int32, device=self._device())}

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings [n, L', D]."""
        embeddings = self.model(input_ids=tokens).last_hidden_state
        lacking = (self.context_length or 0) - embeddings.shape[1]
        return nn.functional.pad(embeddings, (0, 0, 0, lacking)) if lacking > 0 else embeddings
