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

"""The plan of memory: sizes that are known, and what is said where they are too large."""

from __future__ import annotations

import logging

import pytest
import torch
from guidance.small_steps import prepared
from small_diffusion import build_folder
from small_families import build_flux2_klein, build_sd3, build_sdxl, build_z_image
from torch import nn
from torch.utils.checkpoint import checkpoint

from nemo_dreamfusion.checkpoints.diffusers_format import DiffusersCheckpoint
from nemo_dreamfusion.checkpoints.families import FAMILIES
from nemo_dreamfusion.modules.guidance import memory_plan
from nemo_dreamfusion.modules.guidance.families import family_of
from nemo_dreamfusion.modules.guidance.huggingface import HuggingFaceGuidance
from nemo_dreamfusion.modules.guidance.latent_maps import LatentOptions
from nemo_dreamfusion.modules.guidance.networks.memory import META, peak_bytes
from nemo_dreamfusion.modules.guidance.networks.options import NetworkOptions

CPU = torch.device('cpu')
BUILD = {
    'sd': build_folder,
    'sdxl': build_sdxl,
    'sd3': build_sd3,
    'flux2_klein': build_flux2_klein,
    'z_image': build_z_image,
}


@pytest.fixture(scope='module')
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdxl') / 'sdxl'
    return family_of(DiffusersCheckpoint(str(build_sdxl(folder)), families=('sdxl',)))


def plan(family, *, side=64, rows=2, images=1, **networks):
    options = (NetworkOptions(**networks), LatentOptions(image_size=side))
    return memory_plan.plan_memory(family, *options, rows=rows, images=images, device=CPU)


def there_and_back(*, again: bool) -> int:
    """Eight layers of tanh over 1 KiB, forward and backward."""
    x = torch.empty(256, device=META, requires_grad=True)

    def two(y):
        return y.tanh().tanh()

    def run():
        y = x
        for _ in range(4):
            y = checkpoint(two, y, use_reentrant=False) if again else two(y)
        torch.autograd.backward([y], [torch.empty_like(y)], inputs=[x])

    return peak_bytes(run) // 1024


def test_what_the_backward_pass_keeps_is_counted():
    """Without checkpoints the eight outputs and three gradients: given, made, and left at the input. With them fewer."""
    assert there_and_back(again=False) == 8 + 3
    assert there_and_back(again=True) <= 8


def test_attention_is_counted_without_the_matrix_of_all_pairs():
    query = torch.empty(1, 1, 4096, 16, device=META)
    assert peak_bytes(lambda: nn.functional.scaled_dot_product_attention(query, query, query)) == 4096 * 16 * 4


def test_weights_are_counted_by_their_precision(family):
    unet, vae = family.weights.unet(torch.float32), family.weights.vae(torch.float32)
    vae.decoder = None
    of_unet, of_vae = (sum(p.numel() for p in network.parameters()) for network in (unet, vae))
    text = sum(p.numel() for p in family.weights.text_encoder(torch.float32, 'text_encoder_2').parameters())
    whole, half = plan(family), plan(family, precision=16)
    assert whole.weights == 4 * (of_unet + of_vae) and whole.text == 4 * text
    assert half.weights == 2 * of_unet + 4 * of_vae  # its VAE stays in float32: it overflows in float16
    assert half.network < 0.6 * whole.network and half.encoder == whole.encoder


def test_activations_follow_what_is_set(family):
    base = plan(family)
    assert plan(family, checkpoint_vae=True).encoder < 0.9 * base.encoder
    assert plan(family, side=32).encoder == pytest.approx(base.encoder / 4, rel=0.1)
    assert plan(family, images=3).encoder == pytest.approx(3 * base.encoder, rel=0.05)
    assert plan(family, rows=4).network == pytest.approx(2 * base.network, rel=0.1)


@pytest.mark.parametrize('name', BUILD)
def test_every_family_can_be_planned(name, tmp_path):
    weights = DiffusersCheckpoint(str(BUILD[name](tmp_path / name)), families=tuple(FAMILIES))
    found = plan(family_of(weights))
    assert all(size > 0 for size in (found.text, found.weights, found.network, found.encoder))


def say(family, caplog, monkeypatch, free, least=0):
    monkeypatch.setattr(memory_plan, 'free_memory', lambda device: free)
    monkeypatch.setattr(memory_plan, 'SMALL', least)
    options = (NetworkOptions(), LatentOptions(image_size=64))
    with caplog.at_level(logging.INFO, 'nemo_dreamfusion'):
        memory_plan.say_memory(family, *options, rows=2, images=1, device=CPU, scene=2**20)
    own = [record for record in caplog.records if record.name == memory_plan.__name__]
    return [(record.levelname, record.getMessage()) for record in own]


def test_what_fits_is_said_and_what_does_not_gets_advice(family, caplog, monkeypatch):
    ((level, text),) = say(family, caplog, monkeypatch, free=2**40)
    assert level == 'INFO' and '1024.0 GiB are free' in text
    caplog.clear()
    ((level, text),) = say(family, caplog, monkeypatch, free=2**20)
    assert level == 'WARNING'
    for setting in ('networks.checkpoint_vae=true', 'networks.precision=bf16', 'latents.image_size=32'):
        assert f'model.guidance.{setting} saves' in text


def test_of_a_small_model_nothing_is_said(family, caplog, monkeypatch):
    assert say(family, caplog, monkeypatch, free=0, least=2**28) == []
    HuggingFaceGuidance(source='pocket').say_memory('cpu', images=1, scene=0)
    assert not caplog.records


@pytest.mark.parametrize(('upcast', 'expected'), [(True, torch.float32), (False, torch.float16)])
def test_a_vae_that_overflows_in_float16_stays_in_float32(tmp_path, upcast, expected):
    import json

    folder = build_sdxl(tmp_path / 'sdxl')
    file = folder / 'vae' / 'config.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), 'force_upcast': upcast}))
    guidance = prepared(
        folder, networks=NetworkOptions(precision=16), latents=LatentOptions(latent_map='normal_opacity')
    )
    assert guidance.encode.encoder.vae.dtype == expected and guidance.noise_predictor.dtype == torch.float16
