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

"""How likely each view of an object is, as a masked language model reads the prompt."""

from __future__ import annotations

from pathlib import Path

import torch

from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.git_lfs import refuse_lfs_pointer


class ViewLikelihood:
    """P(view | "This image is depicting a [MASK] view of <prompt>") from any BERT-like model of transformers.

    Args:
        source: a local folder or a hub id such as ``google-bert/bert-base-uncased``.
        views: one word per view, each a single token of the model.
        local_files_only: read the hub's cache only.
    """

    def __init__(
        self,
        source: str,
        *,
        views: tuple[str, ...] = ('front', 'side', 'back', 'overhead'),
        local_files_only: bool = False,
    ) -> None:
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        for file in Path(source).expanduser().glob('*'):
            refuse_lfs_pointer(file)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local_files_only)
            self.model = AutoModelForMaskedLM.from_pretrained(
                source, local_files_only=local_files_only, use_safetensors=True
            ).eval()
        except Exception as error:
            raise ValueError(
                f'Cannot load the masked language model {source!r} ({first_line(error)}). Set model.guidance.prompts.debias '
                'to a local folder or a hub id, or to null and write model.front_prompt, model.back_prompt and so on '
                'by hand.'
            ) from error
        self.ids = [self._single_token(view) for view in views]

    def _single_token(self, word: str) -> int:
        """Return the token of a word; of one that the model splits, its first piece."""
        return self.tokenizer(word, add_special_tokens=False).input_ids[0]

    @torch.no_grad()
    def __call__(self, prompt: str) -> list[float]:
        """Return one probability per view, summing to 1."""
        text = f'This image is depicting a {self.tokenizer.mask_token} view of {prompt}'
        batch = self.tokenizer(text, return_tensors='pt', truncation=True)
        position = int((batch.input_ids[0] == self.tokenizer.mask_token_id).nonzero()[0])
        return self.model(**batch).logits[0, position, self.ids].float().softmax(-1).tolist()
