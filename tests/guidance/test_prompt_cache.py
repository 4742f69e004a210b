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

"""Encoded texts on disk: a second run loads no text encoder and gets the same numbers."""

from __future__ import annotations

import shutil

import pytest
import torch
from guidance.small_steps import prepared
from small_families import build_sd3, build_sdxl

from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.prompts import PromptOptions
from nemo_dreamfusion.modules.guidance.tensor_cache import cache_folder
from nemo_dreamfusion.parts.types import PromptSet

PROMPTS = PromptSet('a red cube', negative='bad')


@pytest.fixture(scope='module')
def sdxl(tmp_path_factory):
    return build_sdxl(tmp_path_factory.mktemp('sdxl') / 'sdxl')


@pytest.fixture
def loads(monkeypatch):
    """The text encoders that were loaded, in order."""
    seen, load = [], HuggingFaceGuidance(source='pocket').weights.__class__.text_encoder

    def watched(self, dtype, part='text_encoder'):
        seen.append(part)
        return load(self, dtype, part)

    monkeypatch.setattr('nemo_dreamfusion.checkpoints.diffusers_format.DiffusersCheckpoint.text_encoder', watched)
    return seen


def test_a_second_run_loads_no_text_encoder(sdxl, tmp_path, loads):
    options = {'prompts': PromptOptions(cache=str(tmp_path / 'cache'))}
    plain = prepared(sdxl, PROMPTS).embeddings
    first = prepared(sdxl, PROMPTS, **options).embeddings
    assert loads == ['text_encoder', 'text_encoder_2'] * 2  # one after the other
    second = prepared(sdxl, PROMPTS, **options).embeddings
    assert len(loads) == 4
    for name in ('views', 'negative', 'empty', 'plain'):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
        torch.testing.assert_close(getattr(plain, name), getattr(first, name))
    other = prepared(sdxl, PromptSet('a blue cube', negative='bad'), **options).embeddings
    assert len(loads) == 6 and not torch.equal(other.plain, first.plain)
    assert torch.equal(other.negative, first.negative)


def test_another_model_and_a_damaged_file_are_encoded_anew(sdxl, tmp_path, loads):
    cache = tmp_path / 'cache'
    options = {'prompts': PromptOptions(cache=str(cache))}
    prepared(sdxl, PROMPTS, **options)
    prepared(shutil.copytree(sdxl, tmp_path / 'copy'), PROMPTS, **options)
    assert len(loads) == 4
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    prepared(sdxl, PROMPTS, **options)
    assert len(loads) == 6


def test_a_text_that_is_cut_warns_from_the_cache_too(sd_folder, tmp_path):
    long = PromptSet('a red cube , a blue sphere , a red dragon , a blue cube')
    for _ in range(2):
        with pytest.warns(UserWarning, match='does not see'):
            prepared(sd_folder, long, prompts=PromptOptions(cache=str(tmp_path)))


def test_t5_may_be_left_out(tmp_path, loads):
    folder = build_sd3(tmp_path / 'sd3')
    whole = prepared(folder, PROMPTS).embeddings
    assert loads == ['text_encoder', 'text_encoder_2', 'text_encoder_3']
    left_out = prepared(folder, PROMPTS, without=['text_encoder_3']).embeddings
    assert loads[3:] == ['text_encoder', 'text_encoder_2']
    shutil.rmtree(folder / 'text_encoder_3')
    shutil.rmtree(folder / 'tokenizer_3')
    absent = prepared(folder, PROMPTS).embeddings
    assert torch.equal(absent.plain, left_out.plain) and torch.equal(absent.plain[:77], whole.plain[:77])
    assert (absent.plain[77 : 77 + 256] == 0).all() and not torch.equal(absent.plain, whole.plain)


def test_the_users_caches(monkeypatch, tmp_path):
    monkeypatch.setenv('NEMO_DREAMFUSION_CACHE', str(tmp_path))
    assert cache_folder('auto') == tmp_path / 'prompts'
    monkeypatch.delenv('NEMO_DREAMFUSION_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache_folder('auto') == tmp_path / 'nemo_dreamfusion' / 'prompts'
    assert cache_folder(None) is None
