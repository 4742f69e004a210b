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

"""How the networks of diffusers compute attention."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemo_dreamfusion.parts.checks import check_choice

ATTENTION = ('sdpa', 'flash', 'math', 'xformers')


def set_attention(network: Any, attention: str) -> None:
    """Choose how ``network``, a diffusers UNet or VAE, computes softmax(Q K^T / sqrt(d)) V.

    ``sdpa`` torch's fused attention, by the kernel that torch chooses; ``flash`` its flash kernel, or an error where it has
    none; ``math`` the plain formula; ``xformers`` the kernels of that package.

    Raises:
        ValueError: for another word, and for xformers where that package cannot be used.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    class FlashAttnProcessor(AttnProcessor2_0):
        def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return super().__call__(*args, **kwargs)

    check_choice('model.guidance.networks.attention', attention, ATTENTION)
    if attention == 'xformers':
        try:
            network.enable_xformers_memory_efficient_attention()
        except (ImportError, ValueError) as error:
            raise ValueError(
                f'model.guidance.networks.attention=xformers cannot be used here ({error}). '
                'Set model.guidance.networks.attention=sdpa.'
            ) from error
    else:
        kinds = {'sdpa': AttnProcessor2_0, 'flash': FlashAttnProcessor, 'math': AttnProcessor}
        network.set_attn_processor(kinds[attention]())


def multi_view_attention(views: int) -> Any:
    """Return a processor whose self-attention runs over the tokens of ``views`` images together.

    Images of one object stand next to each other in the batch: [b views, l, c] -> [b, views l, c] (MVDream). Attention to a
    text is each image's own.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    class MultiViewAttention(AttnProcessor2_0):
        def __call__(
            self,
            attn: Any,
            hidden_states: Tensor,
            encoder_hidden_states: Tensor | None = None,
            *args: Any,
            **kwargs: Any,
        ) -> Tensor:
            if encoder_hidden_states is not None:
                return super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
            together = hidden_states.reshape(-1, views * hidden_states.shape[1], hidden_states.shape[2])
            return super().__call__(attn, together, None, *args, **kwargs).reshape(hidden_states.shape)

    return MultiViewAttention()
