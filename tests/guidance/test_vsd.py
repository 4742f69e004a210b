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

"""Variational score distillation with a real UNet and its adapters."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from refusals import NO_VALUE, refusal
from small_families import build_sdxl

from nemo_dreamfusion.modules.guidance.distillation.sds import ScoreDistillationSampling
from nemo_dreamfusion.modules.guidance.distillation.vsd import VariationalScoreDistillation
from nemo_dreamfusion.modules.guidance.guidance_mixing import GuidanceMixing
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions
from nemo_dreamfusion.parts.types import PromptSet

pytest.importorskip('peft')


def guidance_of(folder, *, precision=32, score=None, **options):
    """With VSD of these options, or another score."""
    return HuggingFaceGuidance(
        source=str(folder),
        score=score or VariationalScoreDistillation(**options),
        mixing=GuidanceMixing(guidance_scale=7.5),
        networks=NetworkOptions(precision=precision),
    )


def prepared(folder, **options):
    guidance = guidance_of(folder, **options)
    guidance.prepare(PromptSet('a red cube'), 'cpu')
    return guidance


def step(guidance, render, cameras, seed):
    generator = torch.Generator().manual_seed(seed)
    return guidance.loss(render, cameras, step=0, progress=0.0, latent=True, generator=generator).loss.item()


def inputs(guidance, cameras):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    conditioning = guidance.embeddings.conditioning(cameras)
    return x, torch.tensor([100, 700]), conditioning


def test_at_the_start_the_learned_network_is_the_frozen_one(unpacked, sd_folder, cameras):
    vsd, sds = prepared(sd_folder), prepared(sd_folder, score=ScoreDistillationSampling())
    x, t, conditioning = inputs(vsd, cameras)
    (plain,) = sds.noise_model(x, t, [conditioning.plain])
    assert torch.equal(vsd.noise_model(x, t, [conditioning.plain])[0], plain)
    torch.testing.assert_close(vsd.score.learned(x, t, conditioning), plain)


def test_learning_changes_the_learned_network_and_nothing_else(sd_folder, render, cameras):
    guidance = prepared(sd_folder, learning_rate=1e-2)
    x, t, conditioning = inputs(guidance, cameras)
    (frozen,), learned = guidance.noise_model(x, t, [conditioning.plain]), guidance.score.learned(x, t, conditioning)
    for seed in range(3):
        step(guidance, render, cameras, seed)
    assert torch.equal(guidance.noise_model(x, t, [conditioning.plain])[0], frozen)
    assert (guidance.score.learned(x, t, conditioning) - learned).abs().max() > 1e-3
    assert render.image.grad is None


def test_stable_diffusion_xl_learns_too(tmp_path, render, cameras):
    guidance = prepared(build_sdxl(tmp_path / 'xl'), learning_rate=1e-2)
    x, t, conditioning = inputs(guidance, cameras)
    (frozen,), learned = guidance.noise_model(x, t, [conditioning.plain]), guidance.score.learned(x, t, conditioning)
    torch.testing.assert_close(learned, frozen)
    step(guidance, render, cameras, 0)
    assert torch.equal(guidance.noise_model(x, t, [conditioning.plain])[0], frozen)
    assert (guidance.score.learned(x, t, conditioning) - learned).abs().max() > 1e-3
    turned = dataclasses.replace(conditioning, pose=conditioning.pose + 1.0)
    step(guidance, render, cameras, 1)
    assert not torch.equal(guidance.score.learned(x, t, turned), guidance.score.learned(x, t, conditioning))


def test_the_learned_network_learns_the_noise_of_the_render(sd_folder, cameras):
    learned = prepared(sd_folder, learning_rate=1e-2).score.learned
    guidance = prepared(sd_folder, score=ScoreDistillationSampling())
    x0 = torch.full((2, 4, 8, 8), 0.5)
    conditioning = guidance.embeddings.conditioning(cameras)

    def error():
        generator = torch.Generator().manual_seed(9)
        t = torch.tensor([300, 600])
        noise = torch.randn(x0.shape, generator=generator)
        return (learned(guidance.schedule.add_noise(x0, noise, t), t, conditioning) - noise).square().mean().item()

    before, generator = error(), torch.Generator().manual_seed(0)
    for _ in range(20):
        learned.learn(x0, conditioning, generator)
    assert error() < 0.9 * before


def test_a_resumed_run_goes_on_bit_for_bit(sd_folder, render, cameras):
    whole = prepared(sd_folder)
    [step(whole, render, cameras, seed) for seed in range(2)]
    state = whole.training_state()
    resumed = guidance_of(sd_folder)
    resumed.load_training_state(torch_round_trip(state))
    assert resumed.training_state()
    expected = [step(whole, render, cameras, seed) for seed in (2, 3)]
    resumed.prepare(PromptSet('a red cube'), 'cpu')
    assert [step(resumed, render, cameras, seed) for seed in (2, 3)] == expected


def torch_round_trip(state):
    """Through a file, read as safely as Lightning and NeMo do."""
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_adapters_of_another_rank_are_refused(sd_folder):
    state = torch_round_trip(prepared(sd_folder, rank=4).training_state())
    other = prepared(sd_folder, rank=2)
    before = {name: p.clone() for name, p in other.score.learned.adapters.items()}
    with refusal('model.guidance.score.rank', NO_VALUE, 'model.guidance.source'):
        other.load_training_state(state)
    assert all(torch.equal(p, before[name]) for name, p in other.score.learned.adapters.items())
    with refusal('model/guidance/score', NO_VALUE, 'model.guidance.score.rank'):
        other.load_training_state({'adapters': {}, 'pose': {}, 'optimizer': {}})


@pytest.mark.parametrize('prediction_type', ['epsilon', 'v_prediction', 'sample'])
def test_the_adapters_learn_v_whatever_the_network_speaks(build_sd, tmp_path, cameras, monkeypatch, prediction_type):
    guidance = prepared(build_sd(tmp_path / 'sd', prediction_type=prediction_type))
    learned, compared = guidance.score.learned, []
    mse = torch.nn.functional.mse_loss
    monkeypatch.setattr(torch.nn.functional, 'mse_loss', lambda a, b: compared.append((a, b)) or mse(a, b))
    x0, t, conditioning = inputs(guidance, cameras)
    learned.learn(x0, conditioning, torch.Generator().manual_seed(0))
    ((found, target),) = compared
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(0, 1000, (2,), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    a, sigma = guidance.schedule.signal_and_noise(t)
    torch.testing.assert_close(target, a * noise - sigma * x0)
    noisy = a * x0 + sigma * noise
    eps = a * found + sigma * noisy  # what the velocity says of the noise is what the network says
    # (the adapters have taken one step since; at this learning rate it does not show)
    torch.testing.assert_close(eps, learned(noisy, t, conditioning), rtol=0.05, atol=0.05)


def test_building_adapters_uses_nobodys_random_numbers(sd_folder):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    prepared(sd_folder)
    assert torch.equal(torch.rand(1), expected)


def test_half_precision_weights_with_float32_adapters(sd_folder, render, cameras):
    guidance = prepared(sd_folder, precision='bf16')
    assert {p.dtype for p in guidance.score.learned.parameters} == {torch.float32}
    assert torch.isfinite(torch.tensor(step(guidance, render, cameras, 0)))


def test_compile_and_vsd_exclude_each_other():
    with refusal('model.guidance.networks.compile', True, 'model.guidance.networks.compile=false'):
        HuggingFaceGuidance(
            source='pocket', score=VariationalScoreDistillation(), networks=NetworkOptions(compile=True)
        )


@pytest.mark.parametrize(('option', 'value'), [('rank', 0), ('rank', 1.5), ('learning_rate', 0)])
def test_bad_options_are_refused_before_any_loading(option, value):
    with refusal(f'model.guidance.score.{option}', value, 'at least 1' if option == 'rank' else 'greater than 0'):
        VariationalScoreDistillation(**{option: value})
