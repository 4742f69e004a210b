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

"""sd_nemo: NeMo's archives guide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.checkpoints.own_weights import OwnWeights
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.parts.types import PromptSet

ROOT = Path(__file__).resolve().parents[2]
ARCHIVES = ROOT / 'tests' / 'data' / 'nemo_sd'


@pytest.fixture(scope='module')
def long_tokenizer(build_sd, tmp_path_factory):
    """A tokenizer of 77 tokens, as the archives' text encoders read."""
    return str(build_sd(tmp_path_factory.mktemp('long') / 'sd', length=77) / 'tokenizer')


@pytest.mark.parametrize('name', ['sd1_2023_10', 'sd1_v2.4', 'sd2_v2.4_megatron_clip', 'sd1_v1.23_unnormalised_kv'])
def test_every_vintage_guides(long_tokenizer, render, cameras, name):
    guidance = NemoGuidance(
        checkpoint=str(ARCHIVES / f'{name}.nemo'),
        parts=OwnWeights(tokenizer=long_tokenizer),
        unnormalised_kv='v1.23' in name,
    )
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    assert (guidance.latent_size, guidance.image_size) == (16, 32)
    assert guidance.embeddings.views.shape == (4, 80, 32)
    assert (guidance.embeddings.views[:, 77:] == 0).all()
    assert guidance.weights._parts is None  # the archive's tensors are let go of
    for latent in (True, False):
        loss = guidance.loss(
            render, cameras, step=0, progress=0.0, latent=latent, generator=torch.Generator().manual_seed(0)
        ).loss
        (gradient,) = torch.autograd.grad(loss, render.image)
        assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_77_tokens_on_request(long_tokenizer):
    guidance = NemoGuidance(
        checkpoint=str(ARCHIVES / 'sd1_v2.4.nemo'), parts=OwnWeights(tokenizer=long_tokenizer), context_length=77
    )
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    assert guidance.embeddings.views.shape == (4, 77, 32)


@pytest.mark.parametrize(
    ('options', 'name', 'way_out'),
    [
        ({'checkpoint': 'folder'}, 'checkpoint', '.nemo'),
        ({'checkpoint': None}, 'checkpoint', '.nemo'),
        ({'checkpoint': 'a.nemo', 'context_length': 'long'}, 'context_length', 'auto'),
        ({'checkpoint': 'a.nemo', 'context_length': 0}, 'context_length', 'auto'),
    ],
)
def test_bad_options_are_refused_by_name(options, name, way_out):
    with refusal(f'model.guidance.{name}', options[name], way_out):
        NemoGuidance(**options)


def test_a_missing_archive_is_refused_before_any_work():
    with refusal('/no/such.nemo', NO_VALUE, 'no such file'):
        NemoGuidance(checkpoint='/no/such.nemo').check_prompts(PromptSet('a red cube'))


def test_a_tokenizer_that_cannot_be_had_names_the_option(tmp_path, monkeypatch):
    monkeypatch.setattr('nemo_dreamfusion.checkpoints.clip_vocabulary.PACKAGES', ())  # none is installed
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    guidance = NemoGuidance(checkpoint=str(ARCHIVES / 'sd1_v2.4.nemo'), local_files_only=True)
    with refusal('tokenizer', NO_VALUE, 'model.guidance.tokenizer'):
        guidance.check_prompts(PromptSet('a red cube'))
