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

"""Z-Image, the undistilled base model (Alibaba, Apache-2.0): a rectified flow whose network counts time toward the picture.

The network is told 1 - sigma and predicts x0 - eps. Its texts have no padding, so that the context has one more
channel, which says which tokens are the text's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.modules.guidance.families.language import LATENT_SIZE, TOKENS, LanguageFamily


class ZImage(LanguageFamily):
    """The family ``z_image``."""

    title = 'Z-Image'
    recordable = False  # the length of a text is a value that its network waits for
    layers = (-2,)
    thinking = True

    def encode(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        states, of_text = self.states(texts, dtype, device)
        mask = of_text[:, :, None].float()
        return torch.cat([states * mask, mask], -1)

    def predictor(self, network: nn.Module) -> Any:
        return ZImageNoisePredictor(network)

    def context_shape(self) -> tuple[int, int]:
        return TOKENS, self.weights.config('transformer').get('cap_feat_dim', 2560) + 1


class ZImageNoisePredictor(nn.Module):
    """A diffusion transformer: x [N, C, h, w], 1000 sigma [N], context [N, L, D + 1] -> eps - x0 [N, C, h, w].

    A text that is mixed of two views' is as long as the longer of them.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer, self.dtype = transformer, transformer.dtype
        self.channels: int = transformer.config.in_channels
        self.latent_size = LATENT_SIZE

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return the velocity, in the network's own precision."""
        texts = [row[row[:, -1] > 0, :-1].to(self.dtype) for row in context]
        pictures = list(x.to(self.dtype)[:, :, None])  # [C, 1, h, w] each
        output = self.transformer(pictures, (1000 - t) / 1000, texts).sample
        return -torch.stack(list(output))[:, :, 0]
