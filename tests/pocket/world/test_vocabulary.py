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

"""The tokenizer's files: every word of the world is one token, and no other word is."""

import json

import pytest

from nemo_dreamfusion.pocket.training.networks import TOKENS, build_tokenizer, tokenize
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.vocabulary import merge_rules, write_tokenizer_files

pytestmark = pytest.mark.unit


@pytest.fixture(scope='module')
def tokenizer():
    return build_tokenizer(world.KNOWN_WORDS)


@pytest.mark.parametrize('word', world.KNOWN_WORDS)
def test_known_word_is_one_token(tokenizer, word):
    assert tokenizer.tokenize(word) == [f'{word}</w>']


@pytest.mark.parametrize('word', ['dragon', 'cubes', 'hamburgers', 'bluecube', 'zebra', 'ham'])
def test_other_word_is_not_one_token(tokenizer, word):
    pieces = tokenizer.tokenize(word)
    assert len(pieces) != 1 or pieces[0] == tokenizer.unk_token


def test_longest_caption_fits(tokenizer):
    thing = max(
        (f'small orange {name}' for name in (*world.OBJECT_NAMES, *world.SHAPES)), key=lambda text: len(text.split())
    )
    view = max((view.text for view in world.camera_words()), key=lambda text: len(text.split()))
    ids = tokenize(tokenizer, [f'a {thing} next to a {thing}, {view}'])[0].tolist()
    assert len(ids) == TOKENS == tokenizer.model_max_length
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.eos_token_id) >= 1


def test_case_does_not_matter(tokenizer):
    assert tokenizer('A Duck').input_ids == tokenizer('a duck').input_ids


def test_saved_tokenizer_is_the_same_by_each_set_of_files(tokenizer, tmp_path):
    from transformers import CLIPTokenizer

    tokenizer.save_pretrained(tmp_path / 'new')
    write_tokenizer_files(tmp_path / 'old', world.KNOWN_WORDS)
    text = 'a red cube on top of a blue cylinder, side view'
    expected = tokenizer(text).input_ids
    assert CLIPTokenizer.from_pretrained(tmp_path / 'new')(text).input_ids == expected
    assert CLIPTokenizer.from_pretrained(tmp_path / 'old')(text).input_ids == expected


def test_rules_of_a_later_word_leave_the_earlier_ones_whole(tmp_path):
    write_tokenizer_files(tmp_path, ['car', 'a', 'scar', 'arc', 'oscar'])
    tokens = json.loads((tmp_path / 'vocab.json').read_text(encoding='utf-8'))
    assert {'car</w>', 'a</w>', 'scar</w>', 'arc</w>', 'oscar</w>'} <= set(tokens)
    assert len(merge_rules(['car'])) == 2
