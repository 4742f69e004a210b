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

"""LoRA files that are refused: each in one line, before anything is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from guidance.small_steps import guidance_of, prepared
from guidance.test_lora import ATTENTION, write_lora
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal
from safetensors.torch import save_file

from nemo_dreamfusion.checkpoints.lora import read_loras
from nemo_dreamfusion.launch.configuration import load_config
from nemo_dreamfusion.modules.guidance.base import Guidance
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.types import PromptSet

PROMPTS = PromptSet('a red cube')


def wrong_tensors() -> dict[str, tuple[dict[str, torch.Tensor], str]]:
    """Tensors of which none are a LoRA for the small Stable Diffusion, each with what the message says of them."""
    q, k = f'unet.{ATTENTION[0]}', f'unet.{ATTENTION[1]}'
    pair = {f'{q}.lora_A.weight': torch.zeros(2, 16), f'{q}.lora_B.weight': torch.zeros(16, 2)}
    of_xl = {f'{k}.lora_A.weight': torch.zeros(2, 2048), f'{k}.lora_B.weight': torch.zeros(16, 2)}
    second = 'lora_te2_text_model_encoder_layers_0_mlp_fc1'
    return {
        'unknown_layer': ({'unet.nowhere.lora_A.weight': torch.zeros(2, 16)}, 'unet.nowhere.lora_A.weight'),
        'unknown_key': (pair | {'unet.conv_in.bias_shift': torch.zeros(1)}, 'unet.conv_in.bias_shift'),
        'one_factor': ({f'{q}.lora_A.weight': torch.zeros(2, 16)}, 'one of its two factors'),
        'ranks': (pair | {f'{q}.lora_B.weight': torch.zeros(16, 3)}, 'do not fit'),
        'sizes': (pair | {f'{q}.lora_A.weight': torch.zeros(2, 17)}, 'do not fit'),
        'rank_0': ({f'{q}.lora_A.weight': torch.zeros(0, 16), f'{q}.lora_B.weight': torch.zeros(16, 0)}, 'do not fit'),
        'text_of_xl': (of_xl, 'made for Stable Diffusion XL'),
        'encoder_of_xl': ({f'{second}.lora_down.weight': torch.zeros(2, 16)}, 'made for Stable Diffusion XL'),
        'transformer': ({'transformer.blocks.0.to_q.lora_A.weight': torch.zeros(2, 16)}, 'a diffusion transformer'),
        'twice': (pair | {f'{q}.lora.down.weight': torch.zeros(2, 16)}, 'for the same layer'),
        'dora': (pair | {f'{q}.lora_magnitude_vector': torch.zeros(16)}, 'this is a DoRA'),
        'loha': ({'lora_unet_conv_in.hada_w1_a': torch.zeros(2, 16)}, 'this is a LoHa'),
        'model': ({'down_blocks.0.attentions.0.proj_in.weight': torch.zeros(2, 16)}, 'this is a UNet'),
        'alpha': (pair | {f'{q}.alpha': torch.zeros(2)}, 'not one number'),
        'nothing': ({}, 'no tensors'),
    }


def wrong_files(folder: Path, right: Path) -> dict[Path, str]:
    """Files of these tensors, and files that cannot be read."""
    found = {}
    for name, (tensors, said) in wrong_tensors().items():
        save_file(tensors, folder / f'{name}.safetensors')
        found[folder / f'{name}.safetensors'] = said
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n'
    written = {
        'empty': (b'', 'is empty'),
        'pointer': (pointer, 'lfs pull'),
        'short': (right.read_bytes()[:-100], 'cut short'),
        'header': (right.read_bytes()[:20], 'cut short'),
        'text': (b'<html>Please log in</html>', 'damaged'),
    }
    for name, (content, said) in written.items():
        (folder / f'{name}.safetensors').write_bytes(content)
        found[folder / f'{name}.safetensors'] = said
    for name in ('pickled.pt', 'pickled.safetensors'):
        torch.save({'a': torch.zeros(1)}, folder / name)
        found[folder / name] = 'pickled'
    (folder / 'folder').mkdir()
    return found | {folder / 'folder': 'this is a folder', folder / 'missing.safetensors': 'no such file'}


def test_wrong_files_are_refused_in_one_line_before_anything_is_loaded(sd_folder, tmp_path):
    folder = Path(shutil.copytree(sd_folder, tmp_path / 'sd'))
    right = write_lora(sd_folder, tmp_path / 'right.safetensors', 'kohya')
    for weights in folder.rglob('*.safetensors'):
        weights.write_bytes(b'')  # so that no network can be loaded
    wrong = wrong_files(tmp_path, right)
    assert len(wrong) >= 20
    for path, said in wrong.items():
        guidance = guidance_of(str(folder), lora=[{'path': str(right)}, {'path': str(path)}])
        for look in (guidance.check_prompts, lambda texts, g=guidance: g.prepare(texts, 'cpu')):
            with refusal('model.guidance.lora[1].path', str(path), said) as caught:
                look(PROMPTS)
            assert '\n' not in str(caught.value)
    guidance_of(str(folder), lora=[{'path': str(right)}]).check_prompts(PROMPTS)


@pytest.mark.parametrize(
    ('given', 'key', 'way_out'),
    [
        ('', 'model.guidance.lora', 'path'),
        ({'path': 'a'}, 'model.guidance.lora', 'path'),
        ([{'path': ''}], 'model.guidance.lora[0].path', 'path'),
        ([{'path': 'a', 'scael': 1}], 'model.guidance.lora[0].scael', 'model.guidance.lora[0].scale'),
        ([{'path': 'a', 'scale': float('nan')}], 'model.guidance.lora[0].scale', 'a number'),
    ],
)
def test_entries_of_another_form_are_refused(given, key, way_out):
    with refusal(key, NO_VALUE, way_out):
        guidance_of('a/b', lora=given)


def test_a_text_is_the_path_of_one(sd_folder, tmp_path):
    right = write_lora(sd_folder, tmp_path / 'right.safetensors', 'kohya')
    (one,) = read_loras(str(right))
    assert (one.file.path, one.scale) == (str(right), 1.0)
    node = load_config(overrides=['model/guidance=sd_huggingface', f'model.guidance.lora={right}'])
    build('model.guidance', OmegaConf.to_container(node.model.guidance, resolve=True), Guidance)
    with refusal('model.guidance.embeddings', 'a.safetensors', 'path: …, token: …'):
        guidance_of('a/b', embeddings='a.safetensors')


def test_numbers_that_are_not_finite_are_refused(sd_folder, tmp_path):
    key, path = f'unet.{ATTENTION[0]}', tmp_path / 'nan.safetensors'
    factors = {f'{key}.lora_A.weight': torch.full((1, 16), float('nan')), f'{key}.lora_B.weight': torch.ones(16, 1)}
    save_file(factors, path)
    with refusal('model.guidance.lora[0].path', str(path), 'not finite'):
        prepared(sd_folder, lora=[{'path': str(path)}])


@pytest.mark.parametrize('option', ['lora', 'embeddings'])
def test_engines_take_neither_and_the_others_both_from_the_command_line(option):
    entry = (
        "[{path: a.safetensors, token: '<cat>'}]" if option == 'embeddings' else '[{path: a.safetensors, scale: 0.8}]'
    )
    taken = [f'model.guidance.{option}={entry}', 'model.guidance.source=a/b', 'model/guidance=sd_huggingface']
    node = load_config(overrides=taken).model.guidance
    assert node.parts[option][0].path == 'a.safetensors'
    taken[0] = taken[0].replace('guidance.', 'guidance.parts.', 1)  # the place that the short name stands for
    assert load_config(overrides=taken).model.guidance == node
    node = {
        '_target_': 'nemo_dreamfusion.modules.guidance.engine.EngineGuidance',
        'plan_dir': 'a',
        'checkpoint': 'pocket',
    }
    with refusal(f'model.guidance.{option}', NO_VALUE, 'sd_huggingface', f'model.guidance.{option}'):
        build('model.guidance', node | {option: [{'path': 'a.safetensors'}]}, Guidance)
