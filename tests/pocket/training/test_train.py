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

"""A training of seconds from a seed: stopped and resumed, continued, published."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import NO_VALUE, refusal
from safetensors.torch import load_file

from nemo_dreamfusion.pocket.training import diffusion, publish, train, vae
from nemo_dreamfusion.pocket.world.prompts import read_phrase
from nemo_dreamfusion.pocket.world.render import CameraRange

pytestmark = pytest.mark.unit


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A configuration of seconds: few images, few channels, few steps; no sample sheet."""
    monkeypatch.setattr(publish, 'draw_samples', lambda *_: Image.new('RGB', (8, 8)))
    return train.TrainConfig(
        work_dir=str(tmp_path / 'work'),
        out=str(tmp_path / 'weights'),
        size=16,
        images=12,
        workers=1,
        threads=torch.get_num_threads(),
        vae=vae.VaeConfig(
            channels=(8, 8, 16),
            cycles=[vae.VaeCycle(2, 1e-3, 2, 8), vae.VaeCycle(1, 1e-3, 2, 1)],
            save_every=2,
        ),
        diffusion=diffusion.DiffusionConfig(
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


def test_a_flow_is_published_sampled_and_guides(tiny):
    """The UNet of ``prediction=flow`` is read as one by StableDiffusionPipeline and by the guidance."""
    from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
    from nemo_dreamfusion.parts.types import PromptSet
    from nemo_dreamfusion.pocket.training.networks import load_pipeline

    flow = replace(tiny, prediction='flow')
    train.train(flow)
    pipeline = load_pipeline(Path(flow.out))
    assert pipeline.scheduler.config.prediction_type == 'flow_prediction'
    image = pipeline('a cube', num_inference_steps=2, height=16, width=16, output_type='np').images
    assert image.shape == (1, 16, 16, 3) and torch.from_numpy(image).isfinite().all()
    assert 'flow-prediction' in (Path(flow.out) / 'README.md').read_text(encoding='utf-8')
    guidance = HuggingFaceGuidance(source=flow.out)
    guidance.prepare(PromptSet('a cube'), 'cpu')
    schedule = guidance.schedule
    torch.testing.assert_close(schedule.a + schedule.sigma, torch.ones(1000), rtol=0, atol=2e-4)
    assert schedule.times[499] == 500 and schedule.prediction_type == 'flow_prediction'
    with refusal('prediction', 'epsilon', 'work_dir'):
        train.train(tiny)
    with refusal('prediction', 'v', 'flow'):
        replace(tiny, prediction='v')


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
    with refusal('keep', 0.25, 'start_from', 'out'):
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
    assert publish.read_trainings(second.weights)[-1] == {'steps': 5, 'batch': 2, 'seed': 1}


def test_card_states_the_command_and_the_autoencoders_loss(tiny):
    train.train(tiny)
    card = card_of(tiny)
    assert f' {train.format_command(tiny, 4)} ' in card and 'size=16 images=12 ' in train.format_command(tiny, 4)
    assert "'diffusion.channels=[16, 16, 32]' diffusion.text_width=16 diffusion.steps=4" in train.format_command(
        tiny, 4
    )
    assert not any(word in train.format_command(tiny, 4) for word in ('work_dir', 'out=', 'workers', 'publish'))
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
    with refusal('diffusion.steps', 0, 'at least 1'):
        train.train(replace(tiny, work_dir=str(tmp_path / 'new'), diffusion=replace(tiny.diffusion, steps=0)))


def test_weights_that_ship_are_not_the_default_target():
    assert train.TrainConfig().weights == Path('pocket_training/weights')
    assert train.TrainConfig(out='elsewhere').weights == Path('elsewhere')


def test_device_is_cuda_where_there_is_one(monkeypatch):
    config = train.TrainConfig()
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert config.torch_device == torch.device('cpu')
    with refusal('device', 'cuda', 'auto', 'cpu'):
        print(replace(config, device='cuda').torch_device)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    assert config.torch_device == torch.device('cuda')
    assert replace(config, device='cuda:1').torch_device == torch.device('cuda', 1)


def test_a_work_folder_of_other_renders_is_refused(tiny):
    train.train(tiny)
    with refusal('seed', 9, 'another work_dir'):
        train.train(replace(tiny, seed=9))
    with refusal('cameras', NO_VALUE, 'another work_dir'):
        train.train(replace(tiny, cameras=CameraRange(elevation_deg=(-5, 20))))
    with refusal('shares', NO_VALUE, 'another work_dir'):
        train.train(replace(tiny, shares={'pair': 1.0}))


def test_shares_decide_what_is_rendered_and_stand_in_the_card(tiny):
    pairs = replace(tiny, shares={'named': 0.0, 'mixed-pair': 1.0})
    train.train(pairs)
    with np.load(Path(tiny.work_dir) / 'renders' / 'shard_0000.npz') as shard:
        phrases = [read_phrase(prompt) for prompt in shard['prompts']]
    assert all(phrase.relation for phrase in phrases)
    assert 'shares.named=0.0' in card_of(pairs) and 'shares.mixed-pair=1.0' in card_of(pairs)
    assert 'from seed 0 (of its prompts 100% mixed-pair)' in card_of(pairs)


def test_a_work_folder_of_before_views_is_refused_in_words(tiny):
    Path(tiny.work_dir).mkdir()
    before = {key: value for key, value in asdict(tiny).items() if key != 'views'}
    (Path(tiny.work_dir) / 'config.json').write_text(json.dumps(before), encoding='utf-8')
    with refusal('views', 4, 'another work_dir'):
        train.train(replace(tiny, views=4))
    with refusal('images', 3, 'at least views'):
        replace(tiny, views=4, images=3)


def test_a_folder_of_other_files_is_not_replaced(tiny):
    out = Path(tiny.out)
    out.mkdir()
    (out / 'thesis.tex').write_text('x', encoding='utf-8')
    with refusal('out', str(out), 'out=<new folder>'):
        train.train(tiny)
    assert [path.name for path in out.iterdir()] == ['thesis.tex']


class stopping_after:
    """Within the block, a diffusion training is interrupted once it has made `steps` steps and saved."""

    def __init__(self, steps):
        self.steps = steps

    def __enter__(self):
        self.update = diffusion.DiffusionTrainer._update
        limit, update = self.steps, self.update

        def stopping(trainer):
            if trainer.step == limit:
                raise KeyboardInterrupt
            update(trainer)

        diffusion.DiffusionTrainer._update = stopping

    def __exit__(self, *_):
        diffusion.DiffusionTrainer._update = self.update


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


def test_four_views_are_trained_sampled_and_guide_together(tiny, monkeypatch):
    """The guidance reads the folder as MVDream, and its network is told what the training told it."""
    from nemo_dreamfusion.checkpoints.attention import multi_view_attention
    from nemo_dreamfusion.data.samplers import RandomCameras
    from nemo_dreamfusion.modules.guidance.families.base import append_vector
    from nemo_dreamfusion.modules.guidance.families.mvdream import camera_numbers
    from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
    from nemo_dreamfusion.parts.types import PromptSet
    from nemo_dreamfusion.pocket.training.networks import load_pipeline
    from nemo_dreamfusion.pocket.training.poses import told_pose

    monkeypatch.undo()  # the samples are drawn
    train.train(replace(tiny, views=4, images=16))
    assert 'four sides' in (Path(tiny.out) / 'README.md').read_text(encoding='utf-8')
    assert Image.open(Path(tiny.out) / 'samples.png').width == 2 * 4 * 16
    cameras = RandomCameras(
        batch_size=4, views=4, distance_range=[3.1, 3.3], elevation_range_deg=[-10, 60], fov_range_deg=[36, 36]
    ).sample(torch.Generator().manual_seed(1), 8, 8)
    guidance = HuggingFaceGuidance(source=tiny.out)
    guidance.prepare(PromptSet('a cube'), 'cpu')
    unet = load_pipeline(Path(tiny.out)).unet
    unet.set_attn_processor(multi_view_attention(4))
    for parameter in unet.class_embedding.linear_2.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))  # hardly trained: it says little
    guidance.noise_predictor.unet.load_state_dict(unet.state_dict())
    pose = told_pose(unet, cameras.azimuth_deg, cameras.elevation_deg)
    x, states, t = torch.randn(4, 4, 4, 4), torch.randn(4, 24, 16), torch.full((4,), 500)
    expected = unet(x, t, states, class_labels=pose).sample
    context = append_vector(states, camera_numbers(cameras.camera_to_world))
    torch.testing.assert_close(guidance.noise_predictor(x, t, context), expected, atol=1e-4, rtol=1e-4)
    without = unet(x, t, states, class_labels=torch.zeros_like(pose)).sample
    assert (without - expected).abs().mean() > 0.01
    others = torch.cat([x[:1], x[1:].flip(0)])
    seen = unet(others, t, states, class_labels=pose).sample[0]
    assert (seen - expected[0]).abs().max() > 1e-4  # the other views are looked at
