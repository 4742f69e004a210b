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

"""Backgrounds: one colour per image, random in training only, the directions of the learnt one well mapped."""

import math
import sys
import types
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.modules.backgrounds.random import RandomBackground
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.backgrounds.torchngp import TorchNGPBackground
from nemo_dreamfusion.parts.types import RayBundle

CONF = Path(__file__).parents[2] / 'nemo_dreamfusion/conf/model/background'
BLUE = [0.0, 0.0, 1.0]


def bundle(images=2, height=3, width=4):
    count = images * height * width
    directions = torch.nn.functional.normalize(
        torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    return RayBundle(torch.zeros(count, 3), directions, (images, height, width))


def colors(background, seed=0, **shape):
    return background(bundle(**shape), torch.Generator().manual_seed(seed))


def test_static_is_the_colour_everywhere():
    background = StaticBackground(color=BLUE)
    assert torch.equal(colors(background), torch.tensor(BLUE).expand(24, 3))
    assert torch.equal(background(bundle()), colors(background.eval()))
    assert colors(background, images=0).shape == (0, 3)


def test_one_colour_per_image():
    image = colors(RandomBackground(probability=1.0)).view(2, 12, 3)
    assert torch.equal(image, image[:, :1].expand_as(image))
    assert not torch.equal(image[0], image[1])


def test_evaluation_is_never_random():
    background = RandomBackground(probability=1.0, color=BLUE).eval()
    assert torch.equal(colors(background, 0), torch.tensor(BLUE).expand(24, 3))
    assert torch.equal(background(bundle()), torch.tensor(BLUE).expand(24, 3))


def test_random_share_and_gray_share():
    image = colors(RandomBackground(probability=0.6, gray_probability=0.3, color=BLUE), images=4000, height=1, width=1)
    fixed = (image == torch.tensor(BLUE)).all(-1)
    gray = (image[:, :1] == image).all(-1)
    assert abs(fixed.float().mean() - 0.4) < 4 * math.sqrt(0.4 * 0.6 / 4000)
    assert abs(gray.float().mean() - 0.6 * 0.3) < 4 * math.sqrt(0.18 * 0.82 / 4000)
    free = image[~fixed & ~gray]
    assert (free.mean(0) - 0.5).abs().max() < 4 / math.sqrt(12 * len(free))


def test_random_is_seeded_and_draws_the_same_number_always():
    states = []
    for probability in (0.0, 1.0):
        generator = torch.Generator().manual_seed(7)
        RandomBackground(probability=probability)(bundle(), generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
    background = RandomBackground(probability=1.0)
    assert torch.equal(colors(background, 5), colors(background, 5))
    assert not torch.equal(colors(background, 5), colors(background, 6))


def test_the_encoding_tells_opposite_directions_apart():
    background = TorchNGPBackground()
    ends = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    code = background.encode(ends)
    assert (code[0] - code[1]).abs().max() > 1
    line = torch.linspace(-1, 1, 101)[:, None].expand(-1, 3)
    codes = background.encode(line)
    assert torch.cdist(codes, codes).add(torch.eye(101) * 9).min() > 0.05  # no two directions share a code


def test_frequencies_on_the_unit_interval():
    code = TorchNGPBackground(encoder_multi_res=2).encode(torch.tensor([[0.5, -1.0, 0.0]]))
    phases = [math.pi * k * u for u in (0.75, 0.0, 0.5) for k in (1, 2)]
    expected = torch.tensor([[math.sin(p) for p in phases] + [math.cos(p) for p in phases]])
    torch.testing.assert_close(code, expected, atol=1e-6, rtol=0)


def test_learnt_background_gives_every_parameter_a_gradient():
    background = TorchNGPBackground(net_cfg={'num_layers': 3})
    image = colors(background)
    assert image.shape == (24, 3) and ((image >= 0) & (image <= 1)).all()
    image.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in background.parameters())
    assert torch.equal(colors(background, 0), colors(background.eval(), 1))


@pytest.mark.parametrize('color', ['white', [1, 1], [0, 0, 2], 0.5])
@pytest.mark.parametrize('kind', [StaticBackground, RandomBackground])
def test_refuses_what_is_no_colour(kind, color):
    with refusal('model.background.color', NO_VALUE, 'from 0 to 1' if color != [0, 0, 2] else 'at most 1'):
        kind(color=color)


def test_refuses_misspelt_options():
    with refusal('model.background.net_cfg.num_layer', NO_VALUE, 'num_layers'):
        TorchNGPBackground(net_cfg={'num_layer': 2})
    with pytest.raises(TypeError):
        RandomBackground(ratio=0.5)


@pytest.mark.parametrize('kind', [StaticBackground, RandomBackground, TorchNGPBackground])
def test_only_weights_are_state(kind):
    background = kind()
    assert set(background.state_dict()) == {name for name, _ in background.named_parameters()}


@pytest.mark.parametrize('name', ['static', 'random', 'torchngp'])
def test_yaml_builds_the_defaults(name):
    config = OmegaConf.load(CONF / f'{name}.yaml')
    built, default = hydra.utils.instantiate(config), hydra.utils.get_class(config._target_)()
    assert {k: v.shape for k, v in built.state_dict().items()} == {k: v.shape for k, v in default.state_dict().items()}
    plain = [k for k in config if k not in ('_target_', 'color', 'net_cfg', 'encoder_multi_res')]
    assert [getattr(built, k) for k in plain] == [getattr(default, k) for k in plain]
    if 'color' in config:
        assert torch.equal(built.color, default.color)


def test_tcnn_without_its_package_or_its_gpu_names_the_way_out(monkeypatch):
    from nemo_dreamfusion.modules.backgrounds.tcnn import TCNNBackground

    monkeypatch.setitem(sys.modules, 'tinycudann', None)
    with refusal("'tinycudann'", NO_VALUE, 'Install it', 'model/background=torchngp'):
        TCNNBackground()
    monkeypatch.setitem(sys.modules, 'tinycudann', types.ModuleType('tinycudann'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with refusal('model/background=tcnn', 'GPU', 'model/background=torchngp'):
        TCNNBackground()
