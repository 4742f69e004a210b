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

"""Folders and hub ids: what is refused, and what the configuration files say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint, resolve_source
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.parts.types import PromptSet

POCKET = Path(resolve_source('pocket'))


@pytest.fixture
def broken(sd_folder, tmp_path):
    return Path(shutil.copytree(sd_folder, tmp_path / 'sd'))


def test_misspelt_options_are_refused():
    with pytest.raises(TypeError, match='guidance_scael'):
        HuggingFaceGuidance(guidance_scael=3)


def test_construction_is_light():
    guidance = HuggingFaceGuidance(source='no/where')
    assert not any(isinstance(value, torch.nn.Module) for value in vars(guidance).values())


@pytest.mark.parametrize('part', ['unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler'])
def test_a_folder_that_lacks_a_part_is_refused_by_name(broken, part):
    shutil.rmtree(broken / part)
    guidance = HuggingFaceGuidance(source=str(broken))
    with refusal('model.guidance.source', str(broken), 'a hub id') as caught:
        guidance.prepare(PromptSet('a'), 'cpu')
    assert f'{part}/' in str(caught.value)


def test_pickled_weights_are_refused(broken):
    torch.save({}, broken / 'unet' / 'diffusion_pytorch_model.bin')
    (broken / 'unet' / 'diffusion_pytorch_model.safetensors').unlink()
    with refusal('unet/diffusion_pytorch_model.bin', NO_VALUE, 'unet/diffusion_pytorch_model.safetensors'):
        HuggingFaceGuidance(source=str(broken)).prepare(PromptSet('a'), 'cpu')


def test_a_truncated_file_is_refused_in_one_line(broken):
    file = broken / 'vae' / 'diffusion_pytorch_model.safetensors'
    file.write_bytes(file.read_bytes()[:1000])
    with refusal('vae/diffusion_pytorch_model.safetensors', NO_VALUE, 'damaged') as caught:
        HuggingFaceGuidance(source=str(broken)).prepare(PromptSet('a'), 'cpu')
    assert '\n' not in str(caught.value)


def test_another_kind_of_model_is_refused(broken):
    config = broken / 'unet' / 'config.json'
    config.write_text(json.dumps({**json.loads(config.read_text()), '_class_name': 'SD3Transformer2DModel'}))
    with refusal('unet', 'SD3Transformer2DModel', 'UNet2DConditionModel'):
        HuggingFaceGuidance(source=str(broken)).prepare(PromptSet('a'), 'cpu')


def test_a_missing_folder_and_an_unknown_hub_id_are_refused(monkeypatch):
    with refusal('model.guidance.source', '/no/such/folder', 'folder'):
        HuggingFaceGuidance(source='/no/such/folder').check_prompts(PromptSet('a'))
    with refusal('model.guidance.source', 'nobody/nothing', 'model.guidance.source'):
        HuggingFaceGuidance(source='nobody/nothing', local_files_only=True).check_prompts(PromptSet('a'))
    with refusal('model.guidance.source', '', 'pocket'):
        HuggingFaceGuidance(source='')


def test_the_check_of_prompts_reads_no_weights(broken):
    for weights in broken.rglob('*.safetensors'):
        weights.write_bytes(b'')
    guidance = HuggingFaceGuidance(source=str(broken))
    guidance.check_prompts(PromptSet('a red cube'))
    assert not any(isinstance(value, torch.nn.Module) for value in vars(guidance).values())
    with refusal('model.prompt', NO_VALUE, 'model.prompt='):
        guidance.check_prompts(PromptSet(' '))


def test_pocket_is_a_folder_in_the_package():
    assert POCKET.parts[-3:] == ('nemo_dreamfusion', 'pocket', 'weights')
    assert resolve_source('a/b') == 'a/b'


@pytest.mark.skipif(not (POCKET / 'unet' / 'config.json').is_file(), reason='the pocket weights are not made yet')
def test_the_pocket_model_loads_through_the_same_class_and_its_linear_map_fits(render_of, cameras_at):
    guidance = HuggingFaceGuidance(source='pocket')
    with refusal('model.prompt', 'hamburgr', 'hamburger'):
        guidance.check_prompts(PromptSet('a hamburgr'))
    guidance.prepare(PromptSet('a hamburger'), 'cpu')
    render = render_of(1, guidance.image_size)
    output = guidance.loss(
        render,
        cameras_at((0.0,), (0.0,)),
        step=0,
        progress=0.0,
        latent=True,
        generator=torch.Generator().manual_seed(0),
    )
    assert output.loss.isfinite()
    if (
        'mean squared error of ε 1.0000' not in (POCKET / 'README.md').read_text()
    ):  # weights of a training, not of its start
        assert guidance.linear_map.r2.min() > 0.6 and guidance.linear_map.r2.mean() > 0.7
    assert DiffusersCheckpoint('pocket').is_local


@pytest.mark.slow
def test_a_hub_id_is_read_from_the_hubs_cache_alone(sd_folder, tmp_path):
    """A repository of the cache, in the hub's layout; what a conversion from NeMo left in it counts."""
    root = tmp_path / 'models--somebody--sd'
    snapshot = Path(shutil.copytree(sd_folder, root / 'snapshots' / ('0' * 40)))
    (snapshot / 'nemo_dreamfusion.json').write_text('{"context_length": 24}')
    (root / 'refs').mkdir()
    (root / 'refs' / 'main').write_text('0' * 40)
    code = (
        'from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance\n'
        'from nemo_dreamfusion.parts.types import PromptSet\n'
        "guidance = HuggingFaceGuidance(source='somebody/sd', local_files_only=True)\n"
        "guidance.prepare(PromptSet('a red cube'), 'cpu')\n"
        'print(guidance.weights.is_openai_clip(), tuple(guidance.embeddings.views.shape), guidance.image_size)'
    )
    environment = {**os.environ, 'HF_HUB_CACHE': str(tmp_path)}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout.split('\n')[-2:] == ['True (4, 24, 16) 32', ''], done.stderr[-2000:]
