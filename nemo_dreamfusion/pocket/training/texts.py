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

"""What the UNet reads of a caption: the prompt under the four camera words nearest to the view, mixed by their weights.

The guidance mixes the same way (see ``modules/guidance/prompts.py``), so the UNet is trained on what it will be given.
Shapes: B images, L tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nemo_dreamfusion.parts.views import table_weights
from nemo_dreamfusion.pocket.training.networks import tokenize
from nemo_dreamfusion.pocket.world.captions import camera_words


def tokenize_views(
    tokenizer: Any, prompts: Sequence[str], azimuth_deg: Tensor, elevation_deg: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the token ids of the four nearest views' captions [B, 4, L] and the views' weights [B, 4]."""
    views = camera_words()
    weights, nearest = table_weights(views, azimuth_deg, elevation_deg).topk(4)
    captions = [prompt + views[i].text for prompt, row in zip(prompts, nearest.tolist(), strict=True) for i in row]
    return tokenize(tokenizer, captions).view(len(prompts), 4, -1), weights


def tokenize_plain(tokenizer: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the same for texts without a camera: [B, 4, L], [B, 4]; the first text has all the weight."""
    ids = tokenize(tokenizer, prompts)[:, None].expand(-1, 4, -1)
    return ids, torch.tensor([1.0, 0, 0, 0]).expand(len(prompts), 4)


def mix_states(text_encoder: nn.Module, ids: Tensor, weights: Tensor) -> Tensor:
    """Encode the captions [B, 4, L] and mix their states by the weights [B, 4]: [B, L, D]."""
    states = text_encoder(ids.flatten(0, 1)).last_hidden_state
    return (weights[..., None, None] * states.unflatten(0, ids.shape[:2])).sum(1)
