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

"""Files that are no model that can guide: each is refused in one line that says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from guidance.small_steps import guidance_of
from refusals import refusal
from safetensors.torch import load_file, save_file
from small_files import build_model, write_file

from nemo_dreamfusion.parts.types import PromptSet

UNET, VAE, TEXT = 'model.diffusion_model.', 'first_stage_model.encoder.conv_in.weight', 'cond_stage_model.x'
FIRST = f'{UNET}input_blocks.0.0.weight'
TENSORS = {  # names and shapes of tensors, with what the message says of them
    'inpainting': ({FIRST: (8, 9, 3, 3), VAE: (1,), TEXT: (1,)}, 'an inpainting model'),
    'edit': ({FIRST: (8, 8, 3, 3), VAE: (1,), TEXT: (1,)}, 'InstructPix2Pix'),
    'upscaler': ({FIRST: (8, 7, 3, 3), VAE: (1,), TEXT: (1,)}, 'an upscaler'),
    'depth': ({FIRST: (8, 5, 3, 3), VAE: (1,), TEXT: (1,)}, 'a depth-to-image model'),
    'inpainting_unet': ({'conv_in.weight': (8, 9, 3, 3)}, 'an inpainting model'),
    'refiner': ({FIRST: (8, 4, 3, 3), VAE: (1,), 'conditioner.embedders.0.model.ln_final.bias': (1,)}, 'the refiner'),
    'controlnet': ({'control_model.input_blocks.0.0.weight': (1,)}, 'a ControlNet'),
    'ip_adapter': ({'ip_adapter.1.to_k_ip.weight': (1,), 'image_proj.norm.bias': (1,)}, 'an IP-Adapter'),
    't2i_adapter': ({'adapter.body.0.block1.weight': (1,)}, 'a T2I-Adapter'),
    'animatediff': ({'down_blocks.0.motion_modules.0.temporal_transformer.norm.bias': (1,)}, 'AnimateDiff'),
    'video': ({f'{UNET}input_blocks.1.0.time_stack.in_layers.0.bias': (1,), FIRST: (8, 8, 3, 3)}, 'image-to-video'),
    'playground': ({FIRST: (8, 4, 3, 3), VAE: (1,), 'edm_mean': (4,)}, 'EDM'),
    'unclip': ({FIRST: (8, 4, 3, 3), VAE: (1,), 'embedder.model.visual.proj': (1,)}, 'an unCLIP model'),
    'sd3': ({f'{UNET}joint_blocks.0.x': (1,), 'text_encoders.clip_l.x': (1,)}, 'a Stable Diffusion 3'),
    'flux': ({f'{UNET}double_blocks.0.x': (1,)}, 'Flux'),
    'lora': ({'lora_unet_down_blocks_0.lora_down.weight': (1,)}, 'a LoRA'),
    'embedding': ({'emb_params': (1, 768)}, 'a textual inversion'),
    'unet': ({FIRST: (8, 4, 3, 3)}, 'a UNet without VAE and text encoder'),
    'diffusers_unet': ({'down_blocks.0.resnets.0.time_emb_proj.weight': (1,)}, 'a UNet without VAE and text encoder'),
    'vae': ({'encoder.down.0.block.0.conv1.weight': (1,)}, 'a VAE'),
    'text_encoder': ({'text_model.encoder.layers.0.x': (1,)}, 'a text encoder'),
    'no_text': ({FIRST: (8, 4, 3, 3), VAE: (1,)}, 'without a text encoder'),
    'unknown': ({'something': (1,)}, 'no kind that this package knows'),
    'half': ({FIRST: (8, 4, 3, 3), VAE: (1,), TEXT: (1,)}, 'lacks tensors of a VAE'),
    'nothing': ({}, 'no tensors'),
}
CONTENTS = {  # what is no safetensors file
    'empty.safetensors': (b'', 'is empty'),
    'pointer.safetensors': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n', 'git lfs pull'),
    'page.safetensors': (b'<!DOCTYPE html><html>Please log in</html>', 'a web page'),
    'text.safetensors': (b'Hello, this is not what you want', 'damaged or cut short'),
    'model.onnx': (b'\x08\x07', 'an ONNX model'),
    'model.gguf': (b'GGUF', 'quantized weights'),
    'model.zip': (b'PK', 'neither weights'),
    'damaged.ckpt': (b'\x80\x02nothing', 'code of a file is never run'),
}


class Code:
    """What only code could read."""


def check(path: Path | str, **options) -> None:
    guidance_of(str(path), **options).check_prompts(PromptSet('red cube'))


def refused(path: Path, said: str, setting: str = 'model.guidance.source') -> None:
    with refusal(setting, str(path), said) as caught:
        check(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', TENSORS)
def test_tensors_of_another_kind(tmp_path, name):
    shapes, said = TENSORS[name]
    path = tmp_path / f'{name}.safetensors'
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, path)
    with refusal(str(path), said, said) as caught:
        check(path)
    assert '\n' not in str(caught.value)
    assert ('model.guidance.unet' in str(caught.value)) == (said == TENSORS['unet'][1])


@pytest.mark.parametrize('name', CONTENTS)
def test_what_is_no_safetensors(tmp_path, name):
    content, said = CONTENTS[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, said)


def test_what_was_not_downloaded_to_its_end(tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file({FIRST: torch.zeros(9)}, path)
    whole = path.read_bytes()
    for part in (whole[:-4], whole[:20]):
        path.write_bytes(part)
        refused(path, 'damaged or cut short')


@pytest.mark.parametrize('name', ['a.ckpt', 'a.safetensors'])
def test_pickled_code_is_not_run(tmp_path, name):
    torch.save({'state_dict': {FIRST: torch.zeros(1)}, 'callback': Code()}, tmp_path / name)
    refused(tmp_path / name, 'code of a file is never run' if name == 'a.ckpt' else 'pickled in spite of its name')


@pytest.fixture(scope='module')
def sd1(tmp_path_factory):
    root = tmp_path_factory.mktemp('wrong')
    folder = build_model('sd1', root / 'folder')
    return folder, write_file('sd1', folder, root / 'file.safetensors')


@pytest.fixture(scope='module')
def sd2(tmp_path_factory):
    root = tmp_path_factory.mktemp('wrong2')
    folder = build_model('sd2', root / 'folder')
    return folder, write_file('sd2', folder, root / 'file.safetensors')


WRONG_PARTS = {
    'vae of another size': ('first_stage_model.post_quant_conv.weight', (16, 16, 1, 1), 'in_channels'),
    'texts of another width': (
        'cond_stage_model.transformer.text_model.embeddings.token_embedding.weight',
        (9, 32),
        '',
    ),
    'half a text encoder': (
        'cond_stage_model.transformer.text_model.embeddings.position_embedding.weight',
        None,
        'position_embedding',
    ),
    'a tensor too many': ('model.diffusion_model.input_blocks.1.0.more.weight', (1,), 'has also'),
    'no last layer': ('model.diffusion_model.out.2.bias', None, 'lacks'),
}


@pytest.mark.parametrize('name', WRONG_PARTS)
def test_parts_that_do_not_fit(sd1, tmp_path, name):
    key, shape, said = WRONG_PARTS[name]
    state = load_file(sd1[1])
    state.pop(key, None)
    if shape is not None:
        state[key] = torch.zeros(shape)
    path = tmp_path / 'a.safetensors'
    save_file(state, path)
    guidance = guidance_of(str(path), tokenizer=str(sd1[0]))
    with pytest.raises(ValueError) as caught:
        guidance.check_prompts(PromptSet('red cube'))
        guidance.prepare(PromptSet('red cube'), 'cpu')
    assert str(path) in str(caught.value) and said in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('beside', 'said'),
    [
        (None, 'a.yaml'),
        ('model: {params: {parameterization: x0}}', 'a.yaml'),
        ('model: {params: {parameterization: [v}}', 'model.params'),
        ('- nothing', 'model.params'),
    ],
)
def test_a_stable_diffusion_2_says_what_it_predicts(sd2, tmp_path, beside, said):
    path = Path(shutil.copy(sd2[1], tmp_path / 'a.safetensors'))
    if beside:
        path.with_suffix('.yaml').write_text(beside)
    named = path.with_suffix('.yaml') if said == 'model.params' else path
    with refusal(str(named), said, said) as caught:
        check(path, tokenizer=str(sd2[0]))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('says', 'size'), [('v', 384), ('eps', 256)])
def test_a_configuration_beside_the_file_says_it(sd2, tmp_path, says, size):
    path = Path(shutil.copy(sd2[1], tmp_path / 'a.safetensors'))
    path.with_suffix('.yaml').write_text(f'model: {{params: {{parameterization: {says}}}}}')
    weights = guidance_of(str(path)).weights
    assert weights.scheduler_config()['prediction_type'] == {'v': 'v_prediction', 'eps': 'epsilon'}[says]
    assert weights.config('unet')['sample_size'] == size


def test_folders_of_another_kind_say_so_too(sd1, tmp_path):
    (tmp_path / 'control').mkdir()
    (tmp_path / 'control' / 'config.json').write_text(json.dumps({'_class_name': 'ControlNetModel'}))
    with refusal('model.guidance.source', str(tmp_path / 'control'), 'a ControlNetModel'):
        check(tmp_path / 'control')
    for channels, said in ((9, 'inpainting'), (8, 'InstructPix2Pix'), (7, 'upscaler'), (5, 'depth-to-image')):
        copy = Path(shutil.copytree(sd1[0], tmp_path / str(channels)))
        config = copy / 'unet' / 'config.json'
        config.write_text(json.dumps({**json.loads(config.read_text()), 'in_channels': channels}))
        with refusal('in_channels', channels, said):
            check(copy)
