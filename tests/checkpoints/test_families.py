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

"""Of which family a folder is: by its configurations; what is of none is refused with the list of those that are known."""

from __future__ import annotations

import json
import shutil

import pytest
from guidance.small_steps import guidance_of
from refusals import NO_VALUE, refusal
from small_families import build_sd3, build_sdxl

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.families import FAMILIES
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.families.registry import FAMILIES as GUIDANCE
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.parts.types import PromptSet


@pytest.fixture(scope='module')
def sdxl(tmp_path_factory):
    return build_sdxl(tmp_path_factory.mktemp('sdxl') / 'sdxl')


@pytest.fixture(scope='module')
def sd3(tmp_path_factory):
    return build_sd3(tmp_path_factory.mktemp('sd3') / 'sd3')


def changed(folder, target, file, **keys):
    """A copy of a folder in which a configuration says something else."""
    copy = shutil.copytree(folder, target)
    path = copy / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return copy


def check(folder, **options):
    guidance_of(str(folder), **options).check_prompts(PromptSet('a red cube'))


def test_every_family_of_files_has_its_guidance():
    assert list(FAMILIES) == list(GUIDANCE)


def test_a_family_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    for part, kind in (('transformer', 'PixArtTransformer2DModel'),):
        (tmp_path / part).mkdir()
        (tmp_path / part / 'config.json').write_text(json.dumps({'_class_name': kind}))
    (tmp_path / 'model_index.json').write_text(json.dumps({'_class_name': 'PixArtSigmaPipeline'}))
    with refusal('model.guidance.source', str(tmp_path), 'sd3', 'mvdream') as caught:
        check(tmp_path)
    assert 'PixArtTransformer2DModel of PixArtSigmaPipeline' in str(caught.value)


def test_only_guidance_takes_every_family(sdxl):
    with refusal('model.guidance.source', str(sdxl), 'sd (Stable Diffusion 1.x and 2.x)') as caught:
        DiffusersCheckpoint(str(sdxl)).check()
    assert 'sdxl (Stable Diffusion XL)' in str(caught.value)
    check(sdxl)


@pytest.mark.parametrize('part', ['unet', 'vae', 'text_encoder_2', 'tokenizer_2', 'scheduler'])
def test_a_folder_that_lacks_a_part_is_refused_by_name(sdxl, tmp_path, part):
    copy = shutil.copytree(sdxl, tmp_path / 'copy')
    shutil.rmtree(copy / part)
    if part == 'unet':  # without a network it might be anything
        return
    with refusal('model.guidance.source', str(copy), 'Stable Diffusion XL') as caught:
        check(copy)
    assert f'{part}/' in str(caught.value)


@pytest.mark.parametrize(
    ('family', 'file', 'key', 'value', 'way_out'),
    [
        ('sdxl', 'unet/config.json', 'in_channels', 9, 'inpainting'),
        ('sdxl', 'text_encoder_2/config.json', 'cross_attention_dim', 40, 'different models'),
        ('sd3', 'transformer/config.json', 'joint_attention_dim', 64, 'different models'),
        ('sd3', 'transformer/config.json', 'a_key_of_tomorrow', 3, 'Remove the key'),
        ('sd3', 'vae/config.json', 'latents_mean', [0.0], 'null'),
    ],
)
def test_parts_that_do_not_fit_are_refused(sdxl, sd3, tmp_path, family, file, key, value, way_out):
    said = {'hidden_size': 32} if file.startswith('text') else {key: value}
    copy = changed({'sdxl': sdxl, 'sd3': sd3}[family], tmp_path / 'copy', file, **said)
    with refusal(key, value, way_out):
        check(copy)


def test_distilled_guidance_is_refused(tmp_path):
    (tmp_path / 'transformer').mkdir()
    config = {'_class_name': 'Flux2Transformer2DModel', 'guidance_embeds': True}
    (tmp_path / 'transformer' / 'config.json').write_text(json.dumps(config))
    with refusal('guidance_embeds', 'true', 'false'):
        DiffusersCheckpoint(str(tmp_path), families=tuple(FAMILIES)).config('transformer')


def test_options_that_a_family_cannot_follow_are_refused(sdxl, sd3):
    with refusal('model.guidance.score', 'VariationalScoreDistillation', 'model/guidance/score=sds'):
        check(sd3, score=VariationalScoreDistillation())
    with refusal('model.guidance.networks.attention', 'math', 'sdpa'):
        check(sd3, networks=NetworkOptions(attention='math'))
    with refusal('model.guidance.without', ['vae'], 'text_encoder_3'):
        check(sd3, without=['vae'])
    with refusal('model.guidance.without', ['text_encoder_3'], 'model.guidance.without=null'):
        check(sdxl, without=['text_encoder_3'])


def test_an_empty_prompt_is_refused_by_every_family(sdxl):
    with refusal('model.prompt', NO_VALUE, 'model.prompt='):
        guidance_of(str(sdxl)).check_prompts(PromptSet(' '))
