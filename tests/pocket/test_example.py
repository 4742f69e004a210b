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

"""examples/train_pocket.py as users run it."""

import shlex

import pytest
import torch
from commands import run_example
from PIL import Image

from nemo_dreamfusion.pocket.training import networks
from nemo_dreamfusion.pocket.world import prompts as world

pytestmark = pytest.mark.unit


def test_example_goes_from_a_seed_to_weights_that_load(tmp_path, monkeypatch):
    vae = ['vae.channels=[8,8,16]', 'vae.cycles=[{steps: 2, peak_lr: 1e-3, batch: 2, norm_groups: 8}]']
    unet = ['diffusion.channels=[16,16,32]', 'diffusion.text_width=16', 'diffusion.steps=2', 'diffusion.batch=2']
    small = ['size=16', 'images=6', 'workers=1', 'threads=1', 'diffusion.finish_at=23:59']
    small += ['cameras.elevation_deg=[-5,20]']
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        assert run_example('train_pocket.py', *small, *vae, *unet) == 0
    finally:
        torch.set_num_threads(threads)
    weights = tmp_path / 'pocket_training' / 'weights'
    assert Image.open(weights / 'samples.png').size == (8 * 16, len(world.SUITE) // 2 * 16)
    made_by = [
        line.split(maxsplit=2)[2]
        for line in (weights / 'README.md').read_text(encoding='utf-8').splitlines()
        if '.py' in line
    ]
    assert [word.partition('=')[0] for word in shlex.split(made_by[0])] == [
        *('size', 'images', 'cameras.elevation_deg', 'vae.channels', 'vae.cycles'),
        *('diffusion.channels', 'diffusion.text_width', 'diffusion.steps', 'diffusion.batch'),
    ]
    assert 'elevation -5…20°' in (weights / 'README.md').read_text(encoding='utf-8')
    unet = networks.load_pipeline(weights).unet
    assert tuple(unet.config.block_out_channels) == (16, 16, 32)


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('foo=1', ['foo', 'work_dir']),
        ('diffusion.stepz=1', ['diffusion', 'stepz', 'steps']),
        ('diffusion.steps=x', ['diffusion.steps', "'x'", 'Integer']),
        ('work_dir=/proc/x', ['work_dir', '/proc/x', 'another folder']),
        ('start_from=nowhere', ['start_from', 'nowhere', 'model_index.json']),
        ('diffusion.finish_at=25:10', ['diffusion.finish_at', '25:10', 'HH:MM']),
        ('cameras.elevation_deg=[30,0]', ['cameras.elevation_deg', 'first <= last']),
        ('cameras.overhead_share=2', ['cameras.overhead_share', 'at most 1']),
        ('diffusion.batch=0', ['diffusion.batch', 'at least 1']),
        ('faster', ['faster', 'name=value']),
    ],
)
def test_example_refuses_bad_arguments_in_one_line(argument, words, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_example('train_pocket.py', argument) == 2
    out, said = capfd.readouterr()
    assert out == '' and len(said.splitlines()) == 1, said
    assert said.startswith('error: ') and all(word in said for word in words), said
    assert not list(tmp_path.iterdir())


def test_example_helps(capfd):
    assert run_example('train_pocket.py', '--help') == 0
    assert 'start_from=nemo_dreamfusion/pocket/weights' in capfd.readouterr().out
