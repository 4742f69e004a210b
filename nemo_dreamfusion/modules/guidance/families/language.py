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

"""Texts of the families whose text encoder is a language model, Qwen3: the prompt as a message to it, its inner states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nemo_dreamfusion.modules.guidance.families.base import Family, in_parts, loaded
from nemo_dreamfusion.modules.guidance.prompts import check_not_empty
from nemo_dreamfusion.parts.types import PromptSet

TOKENS = 512
LATENT_SIZE = 128  # of a picture of 1024 pixels, for which these models were trained; no file of theirs says it


class LanguageFamily(Family):
    """What ``flux2_klein`` and ``z_image`` share.

    Attributes:
        layers: whose states are read, counted as transformers counts: 0 is the embedding, -1 the last layer.
        thinking: whether the template of the message leaves room for the model's thoughts.
    """

    layers: tuple[int, ...] = ()
    thinking = False

    def check_prompts(self, prompts: PromptSet) -> None:
        """Refuse an empty prompt; a language model reads any text."""
        check_not_empty(prompts)

    def warn_of_dropped_words(self, texts: Sequence[str]) -> None:
        """Warn of nothing: 512 tokens are a page."""

    def states(self, texts: Sequence[str], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the states side by side [n, 512, layers D], float32, and which tokens are the text's [n, 512], bool."""
        tokenizer = self.weights.tokenizer()
        messages = [self._message(tokenizer, text) for text in texts]
        tokens = tokenizer(messages, padding='max_length', max_length=TOKENS, truncation=True, return_tensors='pt')
        rows = dict(zip(messages, zip(tokens.input_ids.to(device), tokens.attention_mask.to(device))))
        with loaded(self.weights.text_encoder(dtype), device) as model:

            def read(some: Sequence[str]) -> Tensor:
                ids, mask = (torch.stack(parts) for parts in zip(*(rows[message] for message in some)))
                output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
                return torch.cat([output.hidden_states[layer] for layer in self.layers], -1)

            return in_parts(messages, read), tokens.attention_mask.to(device).bool()

    def _message(self, tokenizer: Any, text: str) -> str:
        message = [{'role': 'user', 'content': text}]
        return tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, enable_thinking=self.thinking
        )
