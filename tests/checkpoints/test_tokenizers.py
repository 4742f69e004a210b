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

"""Tokenizers fit their encoder, whatever their own files say of its length."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from refusals import NO_VALUE, refusal
from small_diffusion import build_folder

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.checkpoints.own_weights import OwnWeights
from nemo_dreamfusion.checkpoints.tokenizers import load_tokenizer, tokenizer_folder
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.parts.types import PromptSet

RED = PromptSet('a red cube')


def two_files(tokenizer: Path, target: Path) -> Path:
    """The tokenizer's vocab.json and merges.txt, which say nothing of a length."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    content = json.loads((tokenizer / 'tokenizer.json').read_text())['model']
    (target / 'vocab.json').write_text(json.dumps(content['vocab']))
    merges = [rule if isinstance(rule, str) else ' '.join(rule) for rule in content['merges']]
    (target / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]))
    return target


@pytest.fixture
def own_copy(sd_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd_folder, tmp_path / 'sd'))


def test_vocab_and_merges_alone_serve_a_folder(own_copy):
    whole = DiffusersCheckpoint(str(own_copy)).tokenizer()
    two_files(own_copy / 'tokenizer', own_copy / 'new')
    shutil.rmtree(own_copy / 'tokenizer')
    (own_copy / 'new').rename(own_copy / 'tokenizer')
    assert load_tokenizer(str(own_copy)).model_max_length > 10**6  # what the files say
    bare = DiffusersCheckpoint(str(own_copy)).tokenizer()
    assert bare.model_max_length == whole.model_max_length == 16
    assert bare('a red cube').input_ids == whole('a red cube').input_ids
    guidance = HuggingFaceGuidance(source=str(own_copy))
    guidance.prepare(RED, 'cpu')
    assert guidance.embeddings.views.shape == (4, 16, 16)


def test_vocab_and_merges_alone_serve_an_archive(sd_folder, archive, tmp_path):
    folder = str(two_files(sd_folder / 'tokenizer', tmp_path / 'two'))
    guidance = NemoGuidance(checkpoint=archive('sd1_v2.4'), parts=OwnWeights(tokenizer=folder))
    guidance.check_prompts(RED)
    guidance.prepare(RED, 'cpu')
    assert guidance.embeddings.views.shape == (4, 80, 32)


def test_a_short_tokenizer_reads_as_far_as_its_encoder(sd_folder, archive):
    checkpoint = NemoCheckpoint(archive('sd2_v2.4_megatron_clip'), tokenizer=str(sd_folder))
    assert load_tokenizer(str(sd_folder)).model_max_length == 16
    assert checkpoint.tokenizer().model_max_length == 77  # by the configuration
    assert checkpoint._parts is None
    checkpoint.text_encoder(None)
    assert checkpoint.tokenizer().model_max_length == 77  # by the tensors


def test_a_vocabulary_beyond_the_embedding_is_refused(own_copy, archive, tmp_path):
    words = [f'w{i}</w>' for i in range(1000)]
    vocab = json.loads((two_files(own_copy / 'tokenizer', tmp_path / 'large') / 'vocab.json').read_text())
    vocab |= {word: len(vocab) + i for i, word in enumerate(words)}
    (tmp_path / 'large' / 'vocab.json').write_text(json.dumps(vocab))
    checkpoint = NemoCheckpoint(archive('sd1_v2.4'), tokenizer=str(tmp_path / 'large'))
    rows = checkpoint.text_config()['vocab_size']
    with refusal('tokenizer', f'{len(vocab)} tokens', rows, 'model.guidance.tokenizer'):
        checkpoint.tokenizer()
    shutil.rmtree(own_copy / 'tokenizer')
    shutil.copytree(tmp_path / 'large', own_copy / 'tokenizer')
    with refusal('tokenizer', f'{len(vocab)} tokens', 'model.guidance.tokenizer'):
        HuggingFaceGuidance(source=str(own_copy)).check_prompts(RED)


def test_without_its_encoder_a_tokenizer_keeps_what_it_says(own_copy):
    shutil.rmtree(own_copy / 'text_encoder')
    assert DiffusersCheckpoint(str(own_copy)).tokenizer().model_max_length == 16


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub's cache with somebody/clip in it, and no hub."""
    root = tmp_path / 'hub' / 'models--somebody--clip'
    snapshot = root / 'snapshots' / ('0' * 40)
    build_folder(tmp_path / 'made')
    shutil.copytree(tmp_path / 'made' / 'tokenizer', snapshot)
    (root / 'refs').mkdir()
    (root / 'refs' / 'main').write_text('0' * 40)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    return snapshot


def test_a_hub_id_names_a_tokenizer(hub_cache):
    assert tokenizer_folder('somebody/clip') == hub_cache
    assert len(load_tokenizer('somebody/clip')) > 50
    with refusal('nobody/clip', NO_VALUE, 'model.guidance.tokenizer'):
        load_tokenizer('nobody/clip')


def test_a_converter_takes_a_hub_id_for_its_tokenizer(hub_cache, own_copy, tmp_path):
    from nemo_dreamfusion.checkpoints.convert import convert

    shutil.rmtree(own_copy / 'tokenizer')
    assert any('no tokenizer' in note for note in convert(str(own_copy), str(tmp_path / 'a.nemo')))
    notes = convert(str(own_copy), str(tmp_path / 'b.nemo'), tokenizer='somebody/clip')
    assert not any('tokenizer' in note for note in notes)
    files = NemoCheckpoint(str(tmp_path / 'b.nemo')).files('tokenizer')
    assert files == {path.name: path.read_bytes() for path in hub_cache.iterdir()}
