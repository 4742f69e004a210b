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

"""Words learnt by textual inversion: against diffusers' own loading, in every view's text, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from guidance.small_steps import guidance_of, prepared
from guidance.test_families import assemble_sd
from refusals import NO_VALUE, refusal
from safetensors.torch import save_file
from small_families import build_sd3, build_sdxl

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.own_weights import OwnWeights, add_own_weights
from nemo_dreamfusion.modules.guidance.families import family_of
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.modules.guidance.prompts import PromptOptions
from nemo_dreamfusion.parts.types import PromptSet

CAT = PromptSet('a red <cat>', negative='bad <dog>')
ARCHIVE = Path(__file__).resolve().parents[1] / 'data' / 'nemo_sd' / 'sd1_v2.4.nemo'


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def words(tmp_path) -> list[dict[str, str]]:
    """A word of three vectors, as the web interfaces save them, and one of one vector, as diffusers does."""
    save_file({'emb_params': random(3, 16)}, tmp_path / 'cat.safetensors')
    save_file({'<some-dog>': random(16, seed=1)}, tmp_path / 'dog.safetensors')
    return [{'path': str(tmp_path / f'{name}.safetensors'), 'token': f'<{name}>'} for name in ('cat', 'dog')]


def test_each_views_text_is_what_diffusers_makes_of_it(sd_folder, words):
    pipeline = assemble_sd(sd_folder)
    pipeline.load_textual_inversion({'<cat>': random(3, 16)}, token='<cat>')
    pipeline.load_textual_inversion({'<dog>': random(16, seed=1)}, token='<dog>')
    found = prepared(sd_folder, CAT, embeddings=words).embeddings
    for text, context in zip([*CAT.by_view().values(), CAT.negative], [*found.views, found.negative], strict=True):
        with torch.no_grad():
            expected = pipeline.encode_prompt(text, 'cpu', 1, False)[0][0]
        torch.testing.assert_close(context, expected, rtol=0, atol=1e-5)
    again = prepared(sd_folder, PromptSet('a red <CAT>'), embeddings=words).embeddings
    torch.testing.assert_close(again.plain, found.plain)
    without = prepared(sd_folder, PromptSet('a red <cat>')).embeddings
    assert (without.plain - found.plain).abs().max() > 1e-2


def test_a_closed_vocabulary_and_an_archive_take_a_new_word(sd_folder, closed_folder, words, tmp_path):
    guidance = guidance_of(str(closed_folder), embeddings=words[:1])
    guidance.check_prompts(PromptSet('a red <cat>'))
    with refusal('model.prompt', 'a <cat> dragn', 'dragon'):
        guidance.check_prompts(PromptSet('a <cat> dragn'))
    with refusal('model.prompt', 'a <cat>', 'sd_huggingface'):
        guidance_of(str(closed_folder)).check_prompts(PromptSet('a <cat>'))
    save_file({'cat': random(2, 32)}, tmp_path / 'wide.safetensors')
    archive = NemoGuidance(
        checkpoint=str(ARCHIVE),
        parts=OwnWeights(
            tokenizer=str(sd_folder), embeddings=[{'path': str(tmp_path / 'wide.safetensors'), 'token': '<cat>'}]
        ),
    )
    width = archive.weights.text_config()['hidden_size']
    save_file({'cat': random(2, width)}, tmp_path / 'wide.safetensors')
    encoder, tokenizer = archive.weights.text_encoder(None), archive.weights.tokenizer()
    rows = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(['<cat>', '<cat>_1'])]
    torch.testing.assert_close(rows, random(2, width))


def test_what_is_kept_on_disk_is_by_the_vectors(sd_folder, words, tmp_path):
    def encoded(embeddings):
        options = PromptOptions(cache=str(tmp_path / 'cache'))
        return prepared(sd_folder, CAT, prompts=options, embeddings=embeddings).embeddings.plain

    first = encoded(words)
    assert torch.equal(encoded(words), first)
    save_file({'emb_params': random(3, 16, seed=5)}, words[0]['path'])
    assert not torch.allclose(encoded(words), first)


def test_both_encoders_of_stable_diffusion_xl_learn_the_word(tmp_path):
    """The pooled text is read at the end of the text, although the new token is the largest one."""
    folder = build_sdxl(tmp_path / 'xl')
    path = tmp_path / 'cat.safetensors'
    save_file({'clip_l': random(2, 16), 'clip_g': random(2, 24)}, path)
    plain = DiffusersCheckpoint(str(folder), families=('sdxl',))
    own = add_own_weights(plain, embeddings=[{'path': str(path), 'token': '<cat>'}])
    own.check()
    cpu = torch.device('cpu')
    found, before = (family_of(weights).encode(['a red <cat>'], torch.float32, cpu) for weights in (own, plain))
    assert found.shape == before.shape and bool(
        ((found - before).abs().amax(-1)[0, 3:] > 1e-3).all()
    )  # behind 'a red'
    for part, rows in (('text_encoder', 'clip_l'), ('text_encoder_2', 'clip_g')):
        tokenizer, encoder = own.tokenizer(part), own.text_encoder(None, part)
        ids = tokenizer(['a <cat> cube'], return_tensors='pt').input_ids[0].tolist()
        new = tokenizer.convert_tokens_to_ids(['<cat>', '<cat>_1'])
        assert [i for i in ids if i in new] == new
        vectors = random(2, 16 if rows == 'clip_l' else 24)
        torch.testing.assert_close(encoder.get_input_embeddings().weight[new], vectors)
        if part == 'text_encoder_2':
            output = encoder(torch.tensor([ids]))
            end = ids.index(tokenizer.eos_token_id)
            torch.testing.assert_close(
                output.text_embeds[0], encoder.text_projection(output.last_hidden_state[0, end])
            )


@pytest.mark.parametrize(
    ('tensors', 'said'),
    [
        ({'emb_params': torch.zeros(3, 17)}, '17'),
        ({'emb_params': torch.zeros(0, 16)}, '[0, 16]'),
        ({'emb_params': torch.zeros(1, 2, 16)}, '[1, 2, 16]'),
        ({'clip_l': torch.zeros(1, 16), 'clip_g': torch.zeros(1, 24)}, 'Stable Diffusion XL'),
        ({'clip_g': torch.zeros(1, 16)}, 'text_encoder'),
        ({'a': torch.zeros(1, 16), 'b': torch.zeros(1, 16)}, '2 tensors'),
        ({}, 'no tensors'),
        (b'', 'empty'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'lfs pull'),
        (b'\x80\x04code', 'pickled'),
        (b'\x10\0\0\0\0\0\0\0{"a"', 'cut short'),
    ],
)
def test_wrong_files_are_refused_before_anything_is_loaded(sd_folder, tmp_path, tensors, said):
    folder = Path(shutil.copytree(sd_folder, tmp_path / 'sd'))
    for weights in folder.rglob('*.safetensors'):
        weights.write_bytes(b'')  # so that no network can be loaded
    path = tmp_path / 'word.safetensors'
    path.write_bytes(tensors) if isinstance(tensors, bytes) else save_file(tensors, path)
    guidance = guidance_of(str(folder), embeddings=[{'path': str(path), 'token': '<cat>'}])
    for look in (guidance.check_prompts, lambda texts: guidance.prepare(texts, 'cpu')):
        with refusal('model.guidance.embeddings[0].path', str(path), said) as caught:
            look(CAT)
        assert '\n' not in str(caught.value)


def test_words_that_are_none_are_refused(sd_folder, words, tmp_path):
    path = words[0]['path']
    for tokens, place, value in (
        (['a cat'], 0, 'a cat'),
        (['<cat>', '<CAT>'], 1, '<CAT>'),
    ):
        with refusal(f'model.guidance.embeddings[{place}].token', value, 'word'):
            guidance_of('a/b', embeddings=[{'path': path, 'token': token} for token in tokens])
    with refusal('model.guidance.embeddings[0].token', None, 'model.guidance.embeddings'):
        guidance_of('a/b', embeddings=[{'path': path}])
    known = guidance_of(str(sd_folder), embeddings=[{'path': path, 'token': 'Dragon'}])
    with refusal('model.guidance.embeddings[0].token', 'Dragon', '<Dragon>'):
        known.check_prompts(PromptSet('a Dragon'))
    flow = guidance_of(str(build_sd3(tmp_path / 'sd3')), embeddings=words[:1])
    with refusal('model.guidance.embeddings', NO_VALUE, 'model.guidance.embeddings=null'):
        flow.check_prompts(PromptSet('a cube'))
