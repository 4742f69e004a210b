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

"""OpenCLIP's text tower in a NeMo archive against the same tower made of torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nemo_dreamfusion.checkpoints.nemo_archive import read_archive, write_archive
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint

VOCABULARY, WIDTH, HEADS, LAYERS, TOKENS = 128, 128, 2, 3, 77  # heads are 64 wide, as in every OpenCLIP model


class Block(nn.Module):
    """OpenCLIP's residual attention block: normalise first, GELU between the two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.c_fc, self.mlp.gelu, self.mlp.c_proj = nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    """tokens [n, 77] -> embeddings [n, 77, WIDTH], read as NeMo's FrozenOpenCLIPEmbedder does."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, 16))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        for parameter in self.parameters():  # no bias and no scale is where a wrong order would not show
            nn.init.normal_(parameter, std=0.2)

    def forward(self, tokens: torch.Tensor, layers: int) -> torch.Tensor:
        mask = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding
        for block in list(self.transformer.resblocks)[:layers]:
            x = block(x, mask)
        return self.ln_final(x)


@pytest.mark.parametrize(('layer', 'layers'), [('last', LAYERS), ('penultimate', LAYERS - 1)])
@torch.no_grad()
def test_the_archive_gives_what_open_clip_gives(archive, sd_folder, tmp_path, layer, layers):
    whole, tower = read_archive(archive('sd1_v2.4')), Tower().eval()
    state = {key: value for key, value in whole.state.items() if '.cond_stage_model.' not in key}
    state |= {f'model.cond_stage_model.model.{key}': value for key, value in tower.state_dict().items()}
    target = 'nemo.collections.multimodal.modules.stable_diffusion.encoders.modules.FrozenOpenCLIPEmbedder'
    cond = {
        '_target_': target,
        'arch': 'ViT-H-14',
        'version': 'laion2b_s32b_b79k',
        'layer': layer,
        'max_length': TOKENS,
    }
    write_archive(tmp_path / 'a.nemo', {**whole.config, 'cond_stage_config': cond}, state, {})
    checkpoint = NemoCheckpoint(str(tmp_path / 'a.nemo'), tokenizer=str(sd_folder))
    tokens = torch.randint(VOCABULARY, (3, TOKENS))
    found = checkpoint.text_encoder(torch.float32)(tokens).last_hidden_state
    torch.testing.assert_close(found, tower(tokens, layers), rtol=1e-4, atol=1e-4)
    assert checkpoint.context_length() is None and not checkpoint.is_openai_clip()
    assert checkpoint.tokenizer().pad_token_id == 0
