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

"""One file in the place of something else: the message says what it is and where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusals import NO_VALUE, refusal
from safetensors.torch import save_file
from small_diffusion import build_folder

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.export.engines import build_engines
from nemo_dreamfusion.modules.guidance.engine import EngineGuidance
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.parts.types import PromptSet

RED = PromptSet('a red cube')
WHOLE = ('model.diffusion_model.input_blocks.0.0.weight', 'first_stage_model.x', 'cond_stage_model.x')
VAE = ('first_stage_model.encoder.conv_in.weight',)
TAKERS = {  # every place that takes a checkpoint: its setting, and what is done with it
    'model.guidance.source': lambda path: HuggingFaceGuidance(source=path).check_prompts(RED),
    'model.guidance.checkpoint': lambda path: NemoGuidance(checkpoint=path).check_prompts(RED),
    'source': lambda path: convert(path, f'{path}.nemo'),
    'source ': lambda path: convert(path, f'{path}-folder'),
    'source  ': lambda path: build_engines(path, f'{path}-engines', engine='onnxruntime'),
}


def one_file(path: Path, *names: str) -> Path:
    save_file({name: torch.zeros(1) for name in names or ('x',)}, path)
    return path


@pytest.mark.parametrize('setting', TAKERS)
@pytest.mark.parametrize('name', ['my model.safetensors', "it's $HOME.onnx"])
def test_every_place_that_takes_a_checkpoint_says_what_the_file_is(tmp_path, setting, name):
    path = one_file(tmp_path / name, *VAE)
    with refusal(setting.strip(), str(path), 'an ONNX model' if name.endswith('onnx') else 'a VAE') as caught:
        TAKERS[setting](str(path))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('setting', TAKERS)
def test_a_unet_is_sent_to_a_setting_that_stands_beside_this_one(tmp_path, setting):
    path = str(one_file(tmp_path / 'a.safetensors', WHOLE[0]))
    with refusal(setting.strip(), path, 'a UNet without VAE') as caught:
        TAKERS[setting](path)
    assert ('model.guidance.unet' in str(caught.value)) == (setting == 'model.guidance.source')
    assert ('model/guidance=sd_huggingface' in str(caught.value)) == (setting == 'model.guidance.checkpoint')


def test_the_engines_checkpoint_too(tmp_path):
    path = str(one_file(tmp_path / 'a.safetensors', *VAE))
    guidance = EngineGuidance(plan_dir=str(tmp_path), checkpoint=path, engine='onnxruntime')
    with refusal('model.guidance.checkpoint', path, 'a VAE'):
        guidance.weights.check()


@pytest.mark.parametrize('name', ['a.safetensors', 'a.ckpt'])
def test_where_an_archive_is_wanted_the_guidance_that_takes_the_file_is_named(tmp_path, name):
    path = str(one_file(tmp_path / name, *WHOLE))
    with refusal('model.guidance.checkpoint', path, 'model/guidance=sd_huggingface', 'model.guidance.source'):
        NemoGuidance(checkpoint=path)


@pytest.mark.parametrize('name', ['model_index.json', 'unet/diffusion_pytorch_model.safetensors', 'unet/config.json'])
def test_a_file_of_a_folder_names_the_folder(sd_folder, tmp_path, name):
    folder = build_folder(tmp_path / 'sd')
    (folder / 'model_index.json').write_text('{}')
    with refusal('model.guidance.source', str(folder / name), str(folder)):
        DiffusersCheckpoint(str(folder / name)).check()


def test_archives_and_folders_name_the_guidance_that_reads_them(sd_folder, archive):
    with refusal('model.guidance.source', archive('sd1_v2.4'), 'model/guidance=sd_nemo', 'model.guidance.checkpoint'):
        HuggingFaceGuidance(source=archive('sd1_v2.4')).check_prompts(RED)
    with refusal(
        'model.guidance.checkpoint', str(sd_folder), 'model/guidance=sd_huggingface', 'model.guidance.source'
    ):
        NemoGuidance(checkpoint=str(sd_folder))


def test_a_folder_that_holds_one_file_names_it(tmp_path):
    one_file(tmp_path / 'a.safetensors', *WHOLE)
    with refusal('model.guidance.source', str(tmp_path), 'a.safetensors'):
        DiffusersCheckpoint(str(tmp_path)).check()


@pytest.mark.parametrize(
    'name', ['none.safetensors', 'none.nemo', 'none/x.ckpt', 'https://huggingface.co/a/b', 'none/a/b']
)
def test_what_is_not_there_is_said_to_be_missing(name):
    with refusal('model.guidance.source', name, 'pocket') as caught:
        DiffusersCheckpoint(name).check()
    assert 'one file' not in str(caught.value)


def test_a_missing_value_is_not_taken_for_a_file():
    with refusal('model.guidance.source', NO_VALUE, 'pocket'):
        DiffusersCheckpoint('')
