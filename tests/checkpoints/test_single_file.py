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

"""One file in the place of a folder: the message says what it is, and its command makes the folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from refusals import NO_VALUE, refusal
from safetensors.torch import save_file
from small_diffusion import build_folder

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.nemo_archive import read_archive
from nemo_dreamfusion.export.engines import build_engines
from nemo_dreamfusion.modules.guidance.engine import EngineGuidance
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.nemo import NemoGuidance
from nemo_dreamfusion.parts.types import PromptSet

RED = PromptSet('a red cube')
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


WHOLE = ('model.diffusion_model.input_blocks.0.0.weight', 'first_stage_model.x', 'cond_stage_model.x')


@pytest.mark.parametrize('setting', TAKERS)
@pytest.mark.parametrize('name', ['my model.safetensors', "it's $HOME.ckpt", 'a.pt', 'b.bin'])
def test_every_place_that_takes_a_checkpoint_says_what_the_file_is_and_what_to_do(tmp_path, setting, name):
    path = one_file(tmp_path / name, *WHOLE)
    with refusal(setting.strip(), str(path), 'P.from_single_file', 'one file') as caught:
        TAKERS[setting](str(path))
    assert 'no such' not in str(caught.value)
    command = shlex.split(re.search(r'hub: (.*) -- Set', str(caught.value))[1])
    assert command[3:] == [str(path), str(path.with_suffix(''))]  # as a shell reads it
    wanted = 'model.guidance.source' if 'checkpoint' in setting else setting.strip()
    assert re.search(rf'-- Set (model/guidance=sd_huggingface and )?{wanted} to ', str(caught.value))


def test_the_engines_checkpoint_too(tmp_path):
    path = str(one_file(tmp_path / 'a.safetensors', *WHOLE))
    guidance = EngineGuidance(plan_dir=str(tmp_path), checkpoint=path, engine='onnxruntime')
    with refusal('model.guidance.checkpoint', path, 'P.from_single_file'):
        guidance.weights.check()


@pytest.mark.parametrize(
    ('names', 'kind'),
    [
        (('lora_unet_down_blocks_0.lora_down.weight',), 'LoRA'),
        (('unet.down_blocks.0.attentions.0.to_q.lora.down.weight',), 'LoRA'),
        (('conditioner.embedders.0.x', 'model.diffusion_model.x', 'first_stage_model.x'), 'Stable Diffusion XL'),
        (('model.diffusion_model.joint_blocks.0.x',), 'Stable Diffusion 3'),
        (('model.diffusion_model.double_blocks.0.x',), 'Flux'),
        (('control_model.input_blocks.0.0.weight',), 'ControlNet'),
        (('emb_params',), 'textual inversion'),
        (('model.diffusion_model.input_blocks.0.0.weight',), 'UNet'),
        (('down_blocks.0.resnets.0.time_emb_proj.weight',), 'UNet'),
        (('encoder.down.0.block.0.conv1.weight',), 'VAE'),
        (('text_model.encoder.layers.0.x',), 'text encoder'),
        (('something',), 'no kind'),
    ],
)
def test_a_file_that_is_no_whole_model_is_called_by_its_kind_and_gets_no_command(tmp_path, names, kind):
    path = one_file(tmp_path / 'a.safetensors', *names)
    with refusal('model.guidance.source', str(path), kind, 'a whole Stable Diffusion') as caught:
        DiffusersCheckpoint(str(path)).check()
    assert 'from_single_file' not in str(caught.value)


def test_a_file_that_was_not_downloaded_to_its_end_is_called_damaged(tmp_path):
    path = one_file(tmp_path / 'a.safetensors', *WHOLE)
    path.write_bytes(path.read_bytes()[:-2])
    with refusal('model.guidance.source', str(path), 'damaged'):
        DiffusersCheckpoint(str(path)).check()


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


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['safetensors', 'ckpt'])
def test_the_command_makes_the_folder_that_the_message_names(sd_folder, tmp_path, suffix):
    """Pasted into a shell, with the hub's cache in the place of the hub."""
    path = tmp_path / f'my "model" $1.{suffix}'
    write_ldm(sd_folder, path)
    cache_as_stable_diffusion(tmp_path / 'hub')
    with pytest.raises(ValueError) as caught:
        DiffusersCheckpoint(str(path)).check()
    command = re.search(r'hub: (.*) -- Set', str(caught.value))[1]
    environment = {**os.environ, 'HF_HUB_CACHE': str(tmp_path / 'hub'), 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    made, original = DiffusersCheckpoint(str(path.with_suffix(''))), DiffusersCheckpoint(str(sd_folder))
    made.check()
    for part in ('unet', 'vae', 'text_encoder'):
        found, wanted = made.tensors(part), original.tensors(part)
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


LDM = {  # from NeMo's names of v2 to those of LDM, which files in one have
    '.attn1.norm.': '.norm1.',
    '.attn2.norm.': '.norm2.',
    'ff.net.0.': 'norm3.',
    'ff.net.1.proj': 'ff.net.0.proj',
    'ff.net.3.': 'ff.net.2.',
    'in_layers.1.': 'in_layers.2.',
    'out_layers.2.': 'out_layers.3.',
    '_model.out.1.': '_model.out.2.',
}


def write_ldm(sd_folder: Path, path: Path) -> None:
    """Write the model of a folder as one file."""
    convert(str(sd_folder), f'{path}.nemo')
    state = {}
    for key, value in read_archive(f'{path}.nemo').state.items():
        name = key.removeprefix('model.')
        if name.startswith('model.diffusion_model.'):
            for old, new in LDM.items():
                name = name.replace(old, new)
        state[name] = value.contiguous().clone()
    if path.suffix == '.safetensors':
        save_file(state, path)
    else:
        torch.save({'state_dict': state}, path)


def cache_as_stable_diffusion(hub: Path) -> None:
    """A hub's cache in which the small model has the place of Stable Diffusion 1.5, whose files diffusers asks for."""
    root = hub / 'models--stable-diffusion-v1-5--stable-diffusion-v1-5'
    snapshot = build_folder(root / 'snapshots' / ('0' * 40))
    classes = {
        'scheduler': ['diffusers', 'DDIMScheduler'],
        'text_encoder': ['transformers', 'CLIPTextModel'],
        'tokenizer': ['transformers', 'CLIPTokenizer'],
        'unet': ['diffusers', 'UNet2DConditionModel'],
        'vae': ['diffusers', 'AutoencoderKL'],
        'safety_checker': ['stable_diffusion', 'StableDiffusionSafetyChecker'],
    }
    (snapshot / 'model_index.json').write_text(json.dumps({'_class_name': 'StableDiffusionPipeline', **classes}))
    (root / 'refs').mkdir()
    (root / 'refs' / 'main').write_text('0' * 40)


def test_a_missing_value_is_not_taken_for_a_file():
    with refusal('model.guidance.source', NO_VALUE, 'pocket'):
        DiffusersCheckpoint('')
