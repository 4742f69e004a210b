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

"""Prompt debiasing by view (T15)."""

from __future__ import annotations

import pytest

from nemo_dreamfusion.checkpoints.masked_language_model import ViewLikelihood
from nemo_dreamfusion.modules.guidance.debiasing import debias, debiased, dropped_for
from nemo_dreamfusion.parts.types import PromptSet


def test_t15_known_ratios():
    full, without = (0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25)
    assert 0.2 / (0.5 * 0.2 + 0.5 * 0.25) == pytest.approx(0.889, abs=1e-3)
    assert dropped_for(full, without) == [False, False, True, True]
    assert dropped_for([10 * p for p in full], without) == [False, False, True, True]


def test_impossible_views_drop_nothing():
    assert dropped_for((1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)) == [False] * 4
    assert dropped_for((1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0)) == [False, True, False, False]


def smiles_are_in_front(text):
    return (0.7, 0.1, 0.1, 0.1) if 'smiling' in text else (0.25, 0.25, 0.25, 0.25)


def test_words_that_speak_against_a_view_are_left_out_of_it():
    texts = debias('a smiling dog', smiles_are_in_front)
    assert texts['front'] == 'a smiling dog'
    assert texts['back'] == texts['side'] == texts['overhead'] == 'a dog'


def test_texts_that_the_user_wrote_stay():
    found = debiased(PromptSet('a smiling dog', back='the tail of a dog'), smiles_are_in_front).by_view()
    assert found['back'] == 'the tail of a dog'
    assert found['side'] == 'a dog, side view'
    assert found['front'] == 'a smiling dog, front view'


def test_a_prompt_of_one_word_stays():
    assert debias('smiling', smiles_are_in_front)['back'] == 'smiling'


def test_a_masked_language_model_gives_probabilities(tmp_path):
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    words = 'this image is depicting a view of front side back overhead dog smiling'.split()
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words]
    (tmp_path / 'vocab.txt').write_text('\n'.join(tokens))
    BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    likelihood = ViewLikelihood(str(tmp_path), local_files_only=True)
    found = likelihood('a smiling dog')
    assert len(found) == 4 and sum(found) == pytest.approx(1)
    assert found != likelihood('a dog')
    assert set(debias('a smiling dog', likelihood)) == {'front', 'side', 'back', 'overhead'}


def test_a_missing_model_names_the_option():
    with pytest.raises(ValueError, match='model.guidance.debias'):
        ViewLikelihood('/no/such/model', local_files_only=True)
