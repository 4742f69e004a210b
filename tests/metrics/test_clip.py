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

"""The encoder: the towers give what transformers' own forward gives; a folder that is no CLIP is refused by its files."""

import json
import shutil

import numpy as np
import pytest
import torch
from refusals import NO_VALUE, refusal
from small_clip import SIZE, build_clip

from nemo_dreamfusion.metrics.clip import CLIPEncoder

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return build_clip(tmp_path_factory.mktemp('clip'))


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / 'damaged')


def load(source, **options):
    encoder = CLIPEncoder(source=str(source), **options)
    encoder.check()
    encoder.prepare(CPU)
    return encoder


def test_the_cosines_are_those_of_the_whole_model(folder):
    encoder = load(folder, batch_size=2)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    texts = ['a red cube.', 'a blue sphere.', 'a dragon.', 'a view, side.', 'a ' + 'long ' * 50]
    found = encoder.encode_images(images) @ encoder.encode_texts(texts).T
    tokens = encoder.tokenizer(texts, padding=True, truncation=True, max_length=encoder.length, return_tensors='pt')
    pixels = encoder.preprocess(images=list(images), return_tensors='pt')['pixel_values']
    with torch.no_grad():
        whole = encoder.model(**tokens, pixel_values=pixels)
    expected = whole.logits_per_image / encoder.model.logit_scale.exp()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert pixels.shape == (3, 3, SIZE, SIZE)
    assert found.std() > 1e-3  # they differ, or nothing was compared


def test_the_description_follows_the_weights(folder, damaged):
    encoder, other = CLIPEncoder(source=str(folder)), CLIPEncoder(source=str(damaged))
    encoder.check()
    other.check()
    assert encoder.describe() == other.describe()  # the same files elsewhere
    weights = damaged / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1] + b'\1')
    other.check()
    other._digest = None
    assert encoder.describe() != other.describe()


def change_type(folder):
    (folder / 'config.json').write_text(json.dumps({'model_type': 't5'}))


@pytest.mark.parametrize(
    ('break_it', 'way_out'),
    [
        (change_type, "'t5'"),
        (lambda folder: (folder / 'config.json').unlink(), 'config.json'),
        (lambda folder: (folder / 'model.safetensors').unlink(), 'model.safetensors'),
        (lambda folder: (folder / 'preprocessor_config.json').unlink(), 'preprocessor_config.json'),
        (lambda folder: (folder / 'tokenizer.json').unlink(), 'tokenizer.json'),
        (lambda folder: (folder / 'config.json').write_text('{'), 'metric.encoder.source'),
        (
            lambda folder: (folder / 'model.safetensors').write_text('version https://git-lfs\n'),
            'openai/clip-vit-base-patch32',
        ),
        (lambda folder: shutil.rmtree(folder), 'folder that exists'),
    ],
)
def test_a_folder_that_is_no_clip(break_it, way_out, damaged):
    break_it(damaged)
    with refusal(str(damaged), NO_VALUE, way_out):
        load(damaged)


def test_weights_that_end_early(damaged):
    weights = damaged / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    with refusal('metric.encoder.source', str(damaged), 'cannot be loaded'):
        load(damaged)


def test_a_model_that_is_not_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    with refusal('openai/clip-vit-base-patch16', NO_VALUE, 'metric.encoder.local_files_only=false'):
        CLIPEncoder(source='openai/clip-vit-base-patch16').check()
