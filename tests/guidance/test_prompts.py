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

"""Texts: views by camera, truncation, closed vocabularies."""

from __future__ import annotations

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.masked_language_model import ViewLikelihood
from nemo_dreamfusion.modules.guidance import prompts as p
from nemo_dreamfusion.parts.types import PromptSet
from nemo_dreamfusion.parts.views import View


def weights(azimuth, elevation=0.0, overhead=(60.0, 75.0)):
    options = p.PromptOptions(overhead_elevation_deg=overhead)
    return p.view_weights(torch.tensor([azimuth]), torch.tensor([elevation]), options)[0].tolist()


@pytest.mark.parametrize(
    ('azimuth', 'expected'),
    [
        (0.0, [1, 0, 0, 0]),
        (90.0, [0, 1, 0, 0]),
        (-90.0, [0, 1, 0, 0]),
        (-180.0, [0, 0, 1, 0]),
        (180.0, [0, 0, 1, 0]),
        (45.0, [0.5, 0.5, 0, 0]),
        (-45.0, [0.5, 0.5, 0, 0]),
        (126.0, [0, 1 - 36 / 90, 36 / 90, 0]),
        (270.0, [0, 1, 0, 0]),
    ],
)
def test_the_text_follows_the_azimuth(azimuth, expected):
    assert weights(azimuth) == pytest.approx(expected, abs=1e-6)


def test_the_distance_of_the_camera_is_not_read(cameras_at):
    import dataclasses

    near = cameras_at(azimuth=(10.0, 170.0))
    far = dataclasses.replace(near, distance=near.distance * 100)
    table = p.PromptEmbeddings(torch.randn(4, 3, 2), *torch.randn(3, 3, 2))
    assert torch.equal(table.text(near), table.text(far))
    assert not torch.allclose(table.text(near)[0], table.text(near)[1])


def test_the_overhead_text_fades_in():
    assert weights(45.0, 60.0) == pytest.approx([0.5, 0.5, 0, 0])
    assert weights(45.0, 67.5) == pytest.approx([0.25, 0.25, 0, 0.5])
    assert weights(45.0, 75.0) == pytest.approx([0, 0, 0, 1])
    assert weights(45.0, 90.0) == pytest.approx([0, 0, 0, 1])
    assert weights(45.0, 61.0, overhead=(60.0, 60.0)) == pytest.approx([0, 0, 0, 1])
    assert weights(45.0, 59.0, overhead=60) == pytest.approx([0.5, 0.5, 0, 0])
    with refusal('model.guidance.prompts.overhead_elevation_deg', [75, 60], 'first <= last'):
        p.PromptOptions(overhead_elevation_deg=[75, 60])


def test_each_text_is_encoded_once_and_manual_view_prompts_count(sd_folder):
    tokenizer = DiffusersCheckpoint(str(sd_folder)).tokenizer()
    seen = []

    def encoder(tokens):
        seen.extend(tokenizer.decode(row.tolist()) for row in tokens)
        return torch.zeros(len(tokens), 16, 2)

    texts = PromptSet('a red cube', negative='bad', back='a blue cube')
    p.PromptEmbeddings.encode(texts, lambda texts: encoder(p.tokenize(tokenizer, texts)), options=p.PromptOptions())
    spoken = [text.replace('<|startoftext|>', '').replace('<|endoftext|>', '').strip() for text in seen]
    views = ['a red cube , front view', 'a red cube , side view', 'a blue cube', 'a red cube , overhead view']
    assert [' '.join(text.replace(',', ' , ').split()) for text in spoken] == [*views, 'bad', '', 'a red cube']


def encoded(prompts, folder) -> p.PromptEmbeddings:
    """Embeddings that are the token ids themselves."""
    tokenizer = DiffusersCheckpoint(str(folder)).tokenizer()
    return p.PromptEmbeddings.encode(
        prompts, lambda texts: p.tokenize(tokenizer, texts)[:, :, None].float(), options=p.PromptOptions()
    )


def test_the_unconditional_text_is_the_negative_prompt_or_the_empty_one(sd_folder, cameras_at):
    with_negative = encoded(PromptSet('a', negative='bad'), sd_folder)
    without = encoded(PromptSet('a'), sd_folder)
    assert torch.equal(without.conditioning(cameras_at()).unconditional[1], without.empty)
    assert torch.equal(with_negative.conditioning(cameras_at()).unconditional[1], with_negative.negative)
    assert not torch.equal(with_negative.negative, with_negative.empty)
    assert torch.equal(with_negative.empty, without.empty)


def test_perp_neg_leads_away_from_the_empty_text_and_the_views(sd_folder, cameras_at):
    cameras = cameras_at(azimuth=(0.0, 45.0, 0.0), elevation=(0.0, 0.0, 80.0))
    plain = encoded(PromptSet('a'), sd_folder).conditioning(cameras, perp_neg='threestudio')
    assert plain.negatives.shape[:2] == (3, 2) and plain.negative_weights.shape == (3, 2)
    assert plain.negative_weights[2].tolist() == [0.0, 0.0]  # the overhead view has no opposite
    table = encoded(PromptSet('a', negative='bad'), sd_folder)
    conditioning = table.conditioning(cameras, perp_neg='threestudio')
    assert torch.equal(conditioning.unconditional[0], table.empty)
    assert torch.equal(conditioning.negatives[1, 2], table.negative)
    assert conditioning.negative_weights[:, 2].tolist() == [-1.0] * 3


def test_long_prompts_are_cut_with_a_warning_that_shows_the_lost_words(sd_folder):
    tokenizer = DiffusersCheckpoint(str(sd_folder)).tokenizer()
    long = 'a red cube , a blue sphere , a red dragon , a blue cube , side view'
    with pytest.warns(UserWarning, match="does not see: 'cube , side view'"):
        tokens = p.tokenize(tokenizer, [long])
    assert tokens.shape == (1, 16)
    assert tokens[0, -1] == tokenizer.eos_token_id


def test_fitting_prompts_do_not_warn(sd_folder, recwarn):
    p.tokenize(DiffusersCheckpoint(str(sd_folder)).tokenizer(), ['a red cube', ''])
    assert not recwarn.list


def test_a_closed_vocabulary_refuses_unknown_words_and_names_the_nearest(closed_folder):
    tokenizer = DiffusersCheckpoint(str(closed_folder)).tokenizer()
    with pytest.raises(ValueError) as caught:
        p.check_prompts(tokenizer, PromptSet('A big dragonn, on a red cubes', negative='ugly'))
    text = str(caught.value)
    near = ("'dragonn' (nearest: dragon)", "'cubes' (nearest: cube)")
    for part in (*near, "'big'", "'ugly'", 'model/guidance=sd_huggingface'):
        assert part in text
    assert "'red'" not in text
    p.check_prompts(tokenizer, PromptSet('A Red dragon, a blue sphere', negative='bad'))


def test_an_open_vocabulary_accepts_any_word(sd_folder):
    tokenizer = DiffusersCheckpoint(str(sd_folder)).tokenizer()
    assert p.closed_vocabulary(tokenizer) is None
    p.check_prompts(tokenizer, PromptSet('an xylophone made of fog'))


def test_an_empty_prompt_is_refused(sd_folder):
    with refusal('model.prompt', NO_VALUE, 'model.prompt='):
        p.check_prompts(DiffusersCheckpoint(str(sd_folder)).tokenizer(), PromptSet('  '))


def test_the_view_texts_may_switch_where_the_captions_do():
    azimuth = torch.tensor([0.0, 49.0, 60.0, -60.0, 71.0, 109.0, 120.0, 131.0, -180.0])
    weights = p.view_weights(azimuth, torch.zeros(9), p.PromptOptions((50.0, 70.0)))
    front, side, back = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]
    half_front, half_back = [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]
    expected = [front, front, half_front, half_front, side, side, half_back, back, back]
    assert torch.allclose(weights, torch.tensor(expected), atol=1e-6)


def test_known_ratios():
    full, without = (0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25)
    assert 0.2 / (0.5 * 0.2 + 0.5 * 0.25) == pytest.approx(0.889, abs=1e-3)
    assert p.drops_word(full, without) == [False, False, True, True]
    assert p.drops_word([10 * p for p in full], without) == [False, False, True, True]


def test_impossible_views_drop_nothing():
    assert p.drops_word((1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)) == [False] * 4
    assert p.drops_word((1.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0)) == [False, True, False, False]


def smiles_are_in_front(text):
    return (0.7, 0.1, 0.1, 0.1) if 'smiling' in text else (0.25, 0.25, 0.25, 0.25)


def test_words_that_speak_against_a_view_are_left_out_of_it():
    texts = p.debias_by_view('a smiling dog', smiles_are_in_front)
    assert texts['front'] == 'a smiling dog'
    assert texts['back'] == texts['side'] == texts['overhead'] == 'a dog'


def test_texts_that_the_user_wrote_stay():
    found = p.remove_view_bias(PromptSet('a smiling dog', back='the tail of a dog'), smiles_are_in_front).by_view()
    assert found['back'] == 'the tail of a dog'
    assert found['side'] == 'a dog, side view'
    assert found['front'] == 'a smiling dog, front view'


def test_a_prompt_of_one_word_stays():
    assert p.debias_by_view('smiling', smiles_are_in_front)['back'] == 'smiling'


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
    assert set(p.debias_by_view('a smiling dog', likelihood)) == {'front', 'side', 'back', 'overhead'}


def test_a_missing_model_names_the_option():
    with refusal('/no/such/model', NO_VALUE, 'model.guidance.prompts.debias'):
        ViewLikelihood('/no/such/model', local_files_only=True)


TABLE = (
    View('front', 0, 0, ' , front view'),
    View('side', 90, 0, ' , side view'),
    View('top', 0, 90, ' , overhead view'),
)


def test_cameras_mix_the_texts_of_a_table(sd_folder, cameras_at):
    table = encoded(PromptSet('a red cube', views=TABLE), sd_folder)
    text = table.text(cameras_at(azimuth=(45.0, 200.0), elevation=(0.0, 30.0)))
    torch.testing.assert_close(text[0], (table.views[0] + table.views[1]) / 2)
    beside = 110 / 270  # from the side at 90 degrees on to the front at 360
    level = beside * table.views[0] + (1 - beside) * table.views[1]
    torch.testing.assert_close(text[1], level * 2 / 3 + table.views[2] / 3)


def test_perp_neg_leads_away_from_a_tables_front_and_side_at_the_cameras_elevation(sd_folder, cameras_at):
    table = encoded(PromptSet('a red cube', negative='bad', views=TABLE), sd_folder)
    conditioning = table.conditioning(
        cameras_at(azimuth=(180.0, 180.0), elevation=(0.0, 45.0)), perp_neg='threestudio'
    )
    torch.testing.assert_close(conditioning.negatives[0, 0], table.views[0])
    torch.testing.assert_close(conditioning.negatives[1, 0], (table.views[0] + table.views[2]) / 2)
    assert torch.equal(conditioning.negatives[0, 2], table.negative)
