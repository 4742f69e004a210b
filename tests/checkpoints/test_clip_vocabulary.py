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

"""OpenAI CLIP's tokenizer without a network: from an installed vocabulary or from the hub's cache."""

from __future__ import annotations

import gzip
import importlib
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from refusals import NO_VALUE, refusal
from small_diffusion import write_tokenizer

from nemo_dreamfusion.checkpoints import clip_vocabulary
from nemo_dreamfusion.checkpoints.clip_vocabulary import find_vocabulary, tokenizer_from_vocabulary
from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.nemo_archive import read_archive, write_archive
from nemo_dreamfusion.checkpoints.nemo_checkpoint import NemoCheckpoint
from nemo_dreamfusion.checkpoints.tokenizers import load_tokenizer
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.parts.types import PromptSet

CLIP = 'openai/clip-vit-large-patch14'
EMBEDDING = 'model.cond_stage_model.transformer.text_model.embeddings.token_embedding.weight'
needs_vocabulary = pytest.mark.skipif(
    find_vocabulary() is None, reason=f'needs the vocabulary: {clip_vocabulary.INSTALL}'
)


@pytest.fixture
def no_hub(tmp_path, monkeypatch) -> Path:
    """No network, and an empty cache of the hub, which is returned."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    return tmp_path / 'hub'


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(clip_vocabulary, 'PACKAGES', ('no_such_package',))


@pytest.fixture
def full_archive(archive, tmp_path) -> str:
    """A NeMo archive without a tokenizer whose text encoder has a row for each of CLIP's tokens."""
    whole = read_archive(archive('sd1_v2.4'))
    rows = torch.zeros(49408, whole.state[EMBEDDING].shape[1])
    write_archive(tmp_path / 'full.nemo', whole.config, {**whole.state, EMBEDDING: rows}, {})
    return str(tmp_path / 'full.nemo')


@needs_vocabulary
def test_the_installed_vocabulary_gives_the_ids_of_clip(no_hub):
    tokenizer = load_tokenizer(CLIP)
    assert tokenizer('a photo of a cat').input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer('a diagram').input_ids == [49406, 320, 22697, 49407]  # of CLIP's own README
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.model_max_length) == (49408, 49407, 77)
    assert tokenizer.decode(tokenizer("It's 3.5 mm, élan!").input_ids[1:-1]) == "it 's 3 . 5 mm , élan !"
    assert 'open_clip' not in sys.modules  # it may need packages that are not there


@needs_vocabulary
def test_an_archive_without_a_tokenizer_guides_without_a_network(no_hub, full_archive, tmp_path):
    guidance = NemoGuidance(checkpoint=full_archive)
    guidance.check_prompts(PromptSet('a photo of a cat'))
    assert NemoCheckpoint(full_archive).tokenizer()('a cat').input_ids == [49406, 320, 2368, 49407]
    convert(full_archive, str(tmp_path / 'sd'), tokenizer=CLIP)
    convert(str(tmp_path / 'sd'), str(tmp_path / 'again.nemo'))
    assert NemoCheckpoint(str(tmp_path / 'again.nemo')).tokenizer()('a cat').input_ids == [49406, 320, 2368, 49407]


def test_without_either_the_message_names_both(no_hub, no_package, full_archive):
    with refusal(CLIP, NO_VALUE, clip_vocabulary.INSTALL, 'hf download', str(no_hub), 'model.guidance.tokenizer'):
        NemoGuidance(checkpoint=full_archive).check_prompts(PromptSet('a cat'))
    assert shlex.split(clip_vocabulary.INSTALL)[:2] == ['pip', 'install']
    assert importlib.import_module('huggingface_hub.cli.hf')  # hf download


def test_the_hubs_cache_comes_first(no_hub, tmp_path):
    snapshot = no_hub / f'models--{CLIP.replace("/", "--")}' / 'snapshots' / ('0' * 40)
    write_tokenizer(snapshot, 16, closed=False)
    (snapshot.parents[1] / 'refs').mkdir()
    (snapshot.parents[1] / 'refs' / 'main').write_text('0' * 40)
    assert len(load_tokenizer(CLIP)) < 200


def test_another_id_never_gets_the_vocabulary_of_clip(no_hub):
    with refusal('somebody/clip-vit-large', NO_VALUE, 'model.guidance.tokenizer') as caught:
        load_tokenizer('somebody/clip-vit-large')
    assert 'open_clip' not in str(caught.value)


# --- the format, by a vocabulary of two rules ------------------------------------------------------------------------


def write_vocabulary(path: Path, text: str = '#version: 0.2\nc a\nca t</w>\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_tokens_are_letters_then_last_letters_then_rules(tmp_path):
    tokenizer = tokenizer_from_vocabulary(write_vocabulary(tmp_path / 'v.gz'))
    start, end = 512 + 2, 512 + 3
    assert tokenizer('cat').input_ids == [start, 512 + 1, end]
    assert tokenizer('ca').input_ids == [start, ord('c') - ord('!'), 256 + ord('a') - ord('!'), end]
    assert len(tokenizer) == 512 + 2 + 2


def test_the_package_is_found_and_not_imported(tmp_path, monkeypatch, no_hub):
    file = write_vocabulary(tmp_path / 'open_clip' / clip_vocabulary.FILE)
    (tmp_path / 'open_clip' / '__init__.py').write_text('raise RuntimeError("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert find_vocabulary() == file
    assert len(load_tokenizer(CLIP)) == 516
    shutil.rmtree(tmp_path / 'open_clip')


@pytest.mark.parametrize(
    'content', [b'', b'no gzip', gzip.compress(b'#version\na b c\n', mtime=0), gzip.compress(b"x" * 999, mtime=0)[:20]]
)
def test_a_damaged_vocabulary_is_named(tmp_path, content):
    (tmp_path / 'v.gz').write_bytes(content)
    with refusal(str(tmp_path / 'v.gz'), NO_VALUE, clip_vocabulary.INSTALL):
        tokenizer_from_vocabulary(tmp_path / 'v.gz')
