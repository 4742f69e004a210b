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

"""Both ports of MVDream to diffusers' format against what MVDream's own modules gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from guidance.small_steps import guidance_of
from refusals import refusal
from safetensors.torch import load_file, save_file
from small_families import write_clip

from nemo_dreamfusion.checkpoints.convert import convert
from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.mvdream_file import read_tensors
from nemo_dreamfusion.modules.guidance.families.base import append_vector
from nemo_dreamfusion.modules.guidance.families.mvdream import MultiViewNoisePredictor
from nemo_dreamfusion.parts.types import PromptSet

DATA = Path(__file__).resolve().parents[1] / 'data' / 'mvdream' / 'sd21_4view_small'
PREFIX = 'model.diffusion_model.'
OWN_CLASS = {  # what the port with a class of its own writes
    '_class_name': 'MultiViewUNetModel',
    'image_size': 32,
    'in_channels': 4,
    'out_channels': 4,
    'model_channels': 32,
    'attention_resolutions': [4, 2, 1],
    'num_res_blocks': 2,
    'channel_mult': [1, 1, 2, 2],
    'num_head_channels': 16,
    'transformer_depth': 1,
    'context_dim': 48,
    'use_checkpoint': False,
    'camera_dim': 16,
}


@pytest.fixture(scope='module')
def ours(tmp_path_factory):
    target = tmp_path_factory.mktemp('mvdream') / 'folder'
    convert(str(DATA.with_suffix('.pt')), str(target), head_channels=16)
    return target


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def camera_beside(ours: Path, folder: Path) -> Path:
    """A plain UNet, and ``camera_proj/`` beside it."""
    shutil.copytree(ours, folder)
    file = folder / 'unet' / 'diffusion_pytorch_model.safetensors'
    tensors = load_file(file)
    camera = {key.removeprefix('class_embedding.'): tensors.pop(key) for key in list(tensors) if 'class_emb' in key}
    save_file(tensors, file)
    config = json.loads((folder / 'unet' / 'config.json').read_text())
    write_json(
        folder / 'unet' / 'config.json',
        {**config, 'class_embed_type': None, 'projection_class_embeddings_input_dim': None},
    )
    said = {'_class_name': 'CameraMatrixEmbedding', 'in_channels': 16, 'camera_embed_dim': 128}
    write_json(folder / 'camera_proj' / 'config.json', said)
    save_file(camera, folder / 'camera_proj' / 'diffusion_pytorch_model.safetensors')
    write_json(folder / 'model_index.json', {'_class_name': 'MVDreamPipeline', 'camera_proj': ['mvdream', 'x']})
    return folder


def own_class(ours: Path, folder: Path, prefix: str = '') -> Path:
    """A UNet of the port's own class, with its code beside it."""
    shutil.copytree(ours, folder)
    shutil.rmtree(folder / 'unet')
    (folder / 'unet').mkdir()
    stored = read_tensors(DATA.with_suffix('.pt'))
    tensors = {prefix + key.removeprefix(PREFIX): value.clone() for key, value in stored.items() if PREFIX in key}
    save_file(tensors, folder / 'unet' / 'diffusion_pytorch_model.fp16.safetensors')
    write_json(folder / 'unet' / 'config.json', OWN_CLASS)
    (folder / 'unet' / 'mv_unet.py').write_text('raise SystemExit("code of a model was run")')
    (folder / 'pipeline.py').write_text('raise SystemExit("code of a model was run")')
    return folder


WRITE = {
    'camera beside': camera_beside,
    'own class': own_class,
    'own class in a wrapper': lambda ours, folder: own_class(ours, folder, 'unet.'),
}


@pytest.mark.parametrize('port', WRITE)
def test_a_port_gives_what_mvdream_gave(ours, tmp_path, port):
    known = {name: torch.tensor(value) for name, value in np.load(DATA.with_suffix('.npz')).items()}
    folder = WRITE[port](ours, tmp_path / 'port')
    write_clip(folder, 'text_encoder', 'tokenizer', width=48)
    guidance_of(folder).check_prompts(PromptSet('a red cube'))
    checkpoint = DiffusersCheckpoint(str(folder), families=('mvdream',))
    assert checkpoint.family.name == 'mvdream'
    predict = MultiViewNoisePredictor(checkpoint.unet(torch.float32), views=4)
    with torch.no_grad():
        found = predict(known['x'], known['t'], append_vector(known['context'], known['camera']))
    assert (found - known['eps']).abs().max() < 1e-4


@pytest.mark.parametrize(
    ('key', 'value', 'said'), [('ip_dim', 16, 'ImageDream'), ('camera_dim', 12, '16'), ('camera_dim', None, '16')]
)
def test_models_that_are_shown_pictures_are_refused(ours, tmp_path, key, value, said):
    folder = own_class(ours, tmp_path / 'port')
    write_json(folder / 'unet' / 'config.json', {**OWN_CLASS, key: value})
    with refusal(f'{key} in unet/config.json', value, said):
        DiffusersCheckpoint(str(folder), families=('mvdream',)).check()


def test_a_port_that_lacks_its_camera_is_refused(ours, tmp_path):
    folder = camera_beside(ours, tmp_path / 'port')
    (folder / 'camera_proj' / 'diffusion_pytorch_model.safetensors').unlink()
    with refusal('camera_proj/diffusion_pytorch_model.safetensors', str(folder), 'model.guidance.source'):
        DiffusersCheckpoint(str(folder), families=('mvdream',)).unet(None)
