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

"""The training from a seed: a tiny run, stopped and resumed, and the weights that ship."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nemo_dreamfusion.pocket.training import dataset as renders
from nemo_dreamfusion.pocket.training import diffusion as train_diffusion
from nemo_dreamfusion.pocket.training import networks as components
from nemo_dreamfusion.pocket.training import publish, train
from nemo_dreamfusion.pocket.training import vae as train_vae
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import CameraRange

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / 'nemo_dreamfusion' / 'pocket' / 'weights'
MAX_BYTES = 16e6


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A configuration of seconds: few images, few channels, few steps; no sample sheet."""
    monkeypatch.setattr(publish, 'sample_sheet', lambda *_: Image.new('RGB', (8, 8)))
    return train.TrainConfig(
        work_dir=str(tmp_path / 'work'),
        out=str(tmp_path / 'weights'),
        size=16,
        images=12,
        workers=1,
        threads=torch.get_num_threads(),
        vae=train_vae.VaeConfig(
            channels=(8, 8, 16),
            cycles=[train_vae.VaeCycle(2, 1e-3, 2, 8), train_vae.VaeCycle(1, 1e-3, 2, 1)],
            save_every=2,
        ),
        diffusion=train_diffusion.DiffusionConfig(
            channels=(16, 16, 32), text_width=16, steps=4, decay_steps=2, warmup_steps=1, batch=4, save_every=2
        ),
    )


def weights_of(config):
    return {path.parent.name: load_file(path) for path in Path(config.out).rglob('*.safetensors')}


def test_resumed_training_equals_an_uninterrupted_one(tiny, tmp_path):
    train.train(tiny)
    whole = weights_of(tiny)
    assert set(whole) == {'vae', 'unet', 'text_encoder'}

    second = replace(tiny, work_dir=str(tmp_path / 'again'), out=str(tmp_path / 'again_weights'))
    with stopping_after(2), pytest.raises(KeyboardInterrupt):
        train.train(second)
    train.train(second)
    for part, tensors in weights_of(second).items():
        for name, value in tensors.items():
            torch.testing.assert_close(value, whole[part][name], msg=f'{part} {name}')


def test_training_goes_on_from_a_published_folder(tiny, tmp_path):
    train.train(tiny)
    before = weights_of(tiny)
    diffusion = replace(tiny.diffusion, steps=1, peak_lr=0.0)
    again = replace(
        tiny, work_dir=str(tmp_path / 'w'), out=str(tmp_path / 'o'), start_from=tiny.out, diffusion=diffusion
    )
    train.train(again)
    for part, tensors in weights_of(again).items():
        for name, value in tensors.items():
            torch.testing.assert_close(value, before[part][name], msg=f'{part} {name}')


def test_a_share_of_the_weights_before_can_be_kept(tiny, tmp_path):
    train.train(tiny)
    diffusion = replace(tiny.diffusion, steps=2, peak_lr=0.01)
    common = dict(work_dir=str(tmp_path / 'w'), start_from=tiny.out, diffusion=diffusion)
    new = replace(tiny, out=str(tmp_path / 'new'), **common)
    mixed = replace(tiny, out=str(tmp_path / 'mixed'), keep=0.25, **common)
    train.train(new)
    train.train(mixed)  # trains no more, publishes again
    before, after = weights_of(tiny), weights_of(new)
    for part in ('unet', 'text_encoder'):
        for name, value in weights_of(mixed)[part].items():
            expected = 0.25 * before[part][name].float() + 0.75 * after[part][name].float()
            torch.testing.assert_close(value.float(), expected, atol=2e-3, rtol=2e-3, msg=f'{part} {name}')
    assert '25% of the weights before kept' in card_of(mixed)
    with pytest.raises(ValueError, match='start_from'):
        replace(tiny, keep=0.25)


def card_of(config):
    """The model card, its line breaks taken out."""
    return ' '.join((config.weights / 'README.md').read_text(encoding='utf-8').split())


def test_card_tells_every_training_that_made_the_weights(tiny, tmp_path):
    """Also where a training publishes into the folder that it started from, and is resumed after that."""
    train.train(tiny)
    assert 'together: 4 steps of 4 from seed 0;' in card_of(tiny)
    diffusion = replace(tiny.diffusion, steps=3, batch=2)
    second = replace(tiny, work_dir=str(tmp_path / 'w'), start_from=tiny.out, seed=1, diffusion=diffusion)
    train.train(second)
    train.train(replace(second, diffusion=replace(diffusion, steps=5)))
    assert 'together: 4 steps of 4 from seed 0, then 5 steps of 2 from seed 1 (the data above are its);' in card_of(
        second
    )
    assert publish.trainings_of(second.weights)[-1] == {'steps': 5, 'batch': 2, 'seed': 1}


def test_card_states_the_command_and_the_autoencoders_loss(tiny):
    train.train(tiny)
    card = card_of(tiny)
    assert f' {train.command(tiny, 4)} ' in card and 'size=16 images=12 ' in train.command(tiny, 4)
    assert "'diffusion.channels=[16, 16, 32]' diffusion.text_width=16 diffusion.steps=4" in train.command(tiny, 4)
    assert not any(word in train.command(tiny, 4) for word in ('work_dir', 'out=', 'workers', 'publish'))
    loss = float(re.search(r'dB\*\* PSNR, loss \*\*(\d\.\d+)\*\*', card)[1])
    assert 0.05 < loss < 5  # a squared error and two absolute ones of images in [-1, 1], before they are learnt


def test_same_command_with_the_steps_reached_publishes_again_without_training(tiny, tmp_path):
    train.train(tiny)
    whole, state = weights_of(tiny), (Path(tiny.work_dir) / 'diffusion.pt').read_bytes()
    for steps in (4, 0):
        again = replace(tiny, out=str(tmp_path / f'o{steps}'), diffusion=replace(tiny.diffusion, steps=steps))
        train.train(again)
        assert 'together: 4 steps of 4' in card_of(again) and 'diffusion.steps=4' in card_of(again)
        for part, tensors in weights_of(again).items():
            for name, value in tensors.items():
                torch.testing.assert_close(value, whole[part][name], rtol=0, atol=0)
    assert (Path(tiny.work_dir) / 'diffusion.pt').read_bytes() == state
    with pytest.raises(ValueError, match='diffusion.steps = 0.*no checkpoint'):
        train.train(replace(tiny, work_dir=str(tmp_path / 'new'), diffusion=replace(tiny.diffusion, steps=0)))


def test_weights_that_ship_are_not_the_default_target():
    assert train.TrainConfig().weights == Path('pocket_training/weights')
    assert train.TrainConfig(out='elsewhere').weights == Path('elsewhere')


def test_device_is_cuda_where_there_is_one(monkeypatch):
    config = train.TrainConfig()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert config.torch_device == torch.device('cpu')
    with pytest.raises(ValueError, match="device = 'cuda'.*auto or cpu"):
        print(replace(config, device='cuda').torch_device)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert config.torch_device == torch.device('cuda')
    assert replace(config, device='cuda:1').torch_device == torch.device('cuda', 1)


def example(*arguments, folder):
    """Runs examples/train_pocket.py as a user does, in `folder`."""
    call = [sys.executable, str(ROOT / 'examples' / 'train_pocket.py'), *arguments]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run(call, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)


def test_example_goes_from_a_seed_to_weights_that_load(tmp_path):
    vae = ['vae.channels=[8,8,16]', 'vae.cycles=[{steps: 2, peak_lr: 1e-3, batch: 2, norm_groups: 8}]']
    unet = ['diffusion.channels=[16,16,32]', 'diffusion.text_width=16', 'diffusion.steps=2', 'diffusion.batch=2']
    small = ['size=16', 'images=6', 'workers=1', 'threads=1', 'diffusion.finish_at=23:59']
    small += ['cameras.elevation_deg=[-5,20]']
    done = example(*small, *vae, *unet, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
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
    unet = components.load_pipeline(weights).unet
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
def test_example_refuses_bad_arguments_in_one_line(argument, words, tmp_path):
    done = example(argument, folder=tmp_path)
    assert done.returncode == 2 and done.stdout == '' and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith('error: ') and all(word in done.stderr for word in words), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_work_folder_of_other_renders_is_refused(tiny):
    train.train(tiny)
    with pytest.raises(ValueError, match='seed = 9 .*another work_dir'):
        train.train(replace(tiny, seed=9))
    with pytest.raises(ValueError, match='cameras = .*another work_dir'):
        train.train(replace(tiny, cameras=CameraRange(elevation_deg=(-5, 20))))


def test_a_folder_of_other_files_is_not_replaced(tiny):
    out = Path(tiny.out)
    out.mkdir()
    (out / 'thesis.tex').write_text('x', encoding='utf-8')
    with pytest.raises(ValueError, match='out = ') as error:
        train.train(tiny)
    assert str(out) in str(error.value) and 'out=' in str(error.value)
    assert [path.name for path in out.iterdir()] == ['thesis.tex']


def test_example_helps(tmp_path):
    done = example('--help', folder=tmp_path)
    assert done.returncode == 0 and 'start_from=nemo_dreamfusion/pocket/weights' in done.stdout


class stopping_after:
    """Within the block, a diffusion training is interrupted once it has made `steps` steps and saved."""

    def __init__(self, steps):
        self.steps = steps

    def __enter__(self):
        self.update = train_diffusion.DiffusionTrainer._update
        limit, update = self.steps, self.update

        def stopping(trainer):
            if trainer.step == limit:
                raise KeyboardInterrupt
            update(trainer)

        train_diffusion.DiffusionTrainer._update = stopping

    def __exit__(self, *_):
        train_diffusion.DiffusionTrainer._update = self.update


def test_finish_file_ends_the_training_early_with_decay(tiny):
    config = replace(tiny, diffusion=replace(tiny.diffusion, steps=1000))
    work = Path(config.work_dir)
    work.mkdir()
    (work / 'FINISH').touch()
    train.train(config)
    state = torch.load(work / 'diffusion.pt')
    assert state['step'] == state['end'] == 1 + config.diffusion.decay_steps
    assert not (work / 'FINISH').exists()
    assert 'steps of' in (Path(config.out) / 'README.md').read_text(encoding='utf-8')


def test_cycles_of_the_autoencoder_follow_each_other():
    first, second = train_vae.VaeCycle(4, 1e-3, 2, 8), train_vae.VaeCycle(2, 5e-4, 2, 1)
    config = train_vae.VaeConfig(cycles=[first, second])
    assert config.steps == 6
    assert config.cycle_at(1) == (first, 1 / 4) and config.cycle_at(5) == (second, 1 / 2)


def test_learning_rate_of_one_cycle():
    assert train_vae.one_cycle(0.1, 0.1) == pytest.approx(1)
    assert train_vae.one_cycle(1.0, 0.1) == pytest.approx(0)
    assert train_vae.one_cycle(0.0, 0.1) < 0.1


def test_captions_of_renders_are_their_prompts(tmp_path):
    made = renders.make_renders(tmp_path, images=3, size=16, seed=5, workers=1, cameras=CameraRange())
    again = renders.make_renders(tmp_path, images=3, size=16, seed=5, workers=1, cameras=CameraRange())
    assert made.captions == again.captions and (made.rgba == again.rgba).all()
    for caption in made.captions:
        world.scene(caption)
        assert caption.endswith(' view')


def test_backgrounds_are_white_for_three_in_ten():
    colors = renders.random_backgrounds(20000, np.random.default_rng(0))
    assert (colors == 1).all(1).mean() == pytest.approx(0.3, abs=0.02)
    assert (np.ptp(colors, axis=1) == 0).mean() == pytest.approx(0.6, abs=0.02)


def test_composition_is_colour_over_background():
    rgba = np.zeros((1, 1, 1, 4), np.uint8)
    rgba[0, 0, 0] = (51, 0, 0, 102)  # red 0.2, already multiplied by an opacity of 0.4
    background = renders.random_backgrounds(1, np.random.default_rng(3))[0]
    image = renders.Renders(rgba, ['']).composed(np.array([0]), np.random.default_rng(3))
    expected = np.array([0.2, 0, 0]) + (1 - 0.4) * background
    torch.testing.assert_close((image[0, :, 0, 0] + 1) / 2, torch.from_numpy(expected).float())


def test_weights_that_ship_are_small_and_complete():
    total = sum(path.stat().st_size for path in WEIGHTS.rglob('*') if path.is_file())
    assert total <= MAX_BYTES
    for name in ('README.md', 'samples.png', 'model_index.json', 'tokenizer/vocab.json', 'tokenizer/merges.txt'):
        assert (WEIGHTS / name).is_file()
    assert (WEIGHTS / 'samples.png').stat().st_size < 400e3


@pytest.fixture(scope='module')
def shipped():
    return components.load_pipeline(WEIGHTS)


def test_weights_that_ship_load_by_the_ordinary_classes(shipped):
    ids = components.tokenize(shipped.tokenizer, ['a duck, side view'])
    states = shipped.text_encoder(ids).last_hidden_state
    assert states.shape == (1, components.TOKENS, shipped.unet.config.cross_attention_dim)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert shipped.unet(noise, 500, states).sample.shape == noise.shape
    assert shipped.tokenizer.tokenize('hamburger') == ['hamburger</w>']


def test_autoencoder_that_ships_reconstructs_fresh_renders(shipped, tmp_path):
    fresh = renders.make_renders(tmp_path, images=12, size=64, seed=77, workers=1, cameras=CameraRange())
    images = fresh.composed(np.arange(12), np.random.default_rng(0))
    assert train_vae.psnr(images, train_vae.reconstruct(shipped.vae, images)) > 24
    latents = shipped.vae.encode(images).latent_dist.mode() * shipped.vae.config.scaling_factor
    assert 0.5 < latents.std().item() < 2
