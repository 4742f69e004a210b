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


"""The tiny-cuda-nn back ends on a stand-in for the package: what they ask of it, and what they give.

The stand-in has the interface that tiny-cuda-nn documents for PyTorch (``Encoding``, ``Network``,
``NetworkWithInputEncoding``; ``n_input_dims``, ``n_output_dims``, one flat ``params``, half-precision outputs) and plain
torch inside. It is not tiny-cuda-nn: its kernels ran in none of these tests.
"""

import sys
import types
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_model import CONF
from torch import nn

from nemo_dreamfusion.modules.backgrounds.base import Background
from nemo_dreamfusion.modules.backgrounds.torchngp import TorchNGPBackground
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField
from nemo_dreamfusion.parts.build import build
from nemo_dreamfusion.parts.types import RayBundle


class StandIn(nn.Module):
    """What all modules of tiny-cuda-nn share: float32 in, half out, everything learnt in one flat vector."""

    def __init__(self, n_input_dims, n_output_dims, count):
        super().__init__()
        self.n_input_dims, self.n_output_dims = n_input_dims, n_output_dims
        self.params = nn.Parameter(torch.randn(count) * 0.3)

    def forward(self, x):
        assert x.ndim == 2 and x.shape[1] == self.n_input_dims
        return self.compute(x.float()).half()


class Encoding(StandIn):
    """HashGrid: each level one row of features, scaled by the position. Frequency: sines and cosines of 2^k pi x."""

    def __init__(self, n_input_dims, encoding_config):
        self.config = encoding_config
        if encoding_config['otype'] == 'HashGrid':
            width = encoding_config['n_levels'] * encoding_config['n_features_per_level']
            super().__init__(n_input_dims, width, width * n_input_dims)
        else:
            assert encoding_config['otype'] == 'Frequency'
            super().__init__(n_input_dims, 2 * n_input_dims * encoding_config['n_frequencies'], 0)

    def compute(self, x):
        assert ((x >= 0) & (x <= 1)).all()  # tiny-cuda-nn's encodings live on the unit cube
        if self.config['otype'] == 'HashGrid':
            return torch.sin(x @ self.params.view(self.n_input_dims, -1))
        phase = torch.stack([x * torch.pi * 2**k for k in range(self.config['n_frequencies'])], -1).flatten(1)
        return torch.cat([phase.sin(), phase.cos()], -1)


class Network(StandIn):
    """Linear maps without bias and ReLU between them."""

    def __init__(self, n_input_dims, n_output_dims, network_config):
        assert network_config['activation'] == 'ReLU' and network_config['output_activation'] == 'None'
        hidden = [network_config['n_neurons']] * network_config['n_hidden_layers']
        self.shapes = list(pairwise([n_input_dims, *hidden, n_output_dims]))
        super().__init__(n_input_dims, n_output_dims, sum(a * b for a, b in self.shapes))

    def compute(self, x):
        weights = self.params.split([a * b for a, b in self.shapes])
        for (a, b), weight in zip(self.shapes[:-1], weights):
            x = F.relu(x @ weight.view(a, b))
        return x @ weights[-1].view(self.shapes[-1])


class NetworkWithInputEncoding(StandIn):
    def __init__(self, n_input_dims, n_output_dims, encoding_config, network_config):
        self.encoding = None
        encoding = Encoding(n_input_dims, encoding_config)
        network = Network(encoding.n_output_dims, n_output_dims, network_config)
        super().__init__(n_input_dims, n_output_dims, network.params.numel())
        self.__dict__['parts'] = (encoding, network)

    def compute(self, x):
        encoding, network = self.parts
        x = encoding.compute(x)
        for i, ((a, b), weight) in enumerate(
            zip(network.shapes, self.params.split([a * b for a, b in network.shapes]))
        ):
            x = (F.relu(x) if i else x) @ weight.view(a, b)
        return x


@pytest.fixture(autouse=True)
def tiny_cuda_nn(monkeypatch):
    package = types.ModuleType('tinycudann')
    package.Encoding, package.Network, package.NetworkWithInputEncoding = Encoding, Network, NetworkWithInputEncoding
    monkeypatch.setitem(sys.modules, 'tinycudann', package)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)


def made(group, choice, kind):
    """As the command builds it from its YAML file."""
    with initialize_config_dir(str(CONF), version_base=None):
        config = OmegaConf.to_container(compose('dreamfusion', [f'model/{group}={choice}']).model[group], resolve=True)
    return build(f'model.{group}', config, kind)


def shapes(tensors):
    return [None if x is None else tuple(x.shape) for x in tensors]


def test_a_torchngp_field_configured_alike_gives_the_same_shapes_and_types():
    tcnn, ngp = made('nerf', 'tcnn', RadianceField), made('nerf', 'torchngp', RadianceField)
    assert isinstance(ngp, TorchNGPField) and tcnn.bound == ngp.bound
    assert tcnn.encoder.n_output_dims == ngp.grid.num_levels * ngp.grid.level_dim == 16 * 2
    for count in (0, 1, 7):
        positions = torch.rand(count, 3) * 2.4 - 1.2  # beyond the box, too
        for with_albedo in (True, False):
            ours, theirs = (shapes(field.raw(positions, with_albedo=with_albedo)) for field in (ngp, tcnn))
            assert ours == theirs == [(count,), (count, 3) if with_albedo else None]
        out = tcnn(positions)
        assert shapes((out.density, out.albedo)) == [(count,), (count, 3)]
        assert out.density.dtype == out.albedo.dtype == torch.float32
        assert tcnn.normals(positions).shape == ngp.normals(positions).shape == (count, 3)


def test_its_groups_hold_all_parameters_and_all_of_them_learn():
    field = made('nerf', 'tcnn', RadianceField)
    groups = field.parameter_groups()
    assert [id(p) for p in groups['encoding']] == [id(field.encoder.params)]
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in field.parameters()}
    out = field(torch.rand(64, 3) - 0.5)
    (out.density.sum() + out.albedo.sum()).backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in field.parameters())


def test_a_nemo_file_says_which_field_it_holds():
    tcnn, ngp = made('nerf', 'tcnn', RadianceField), made('nerf', 'torchngp', RadianceField)
    assert set(tcnn.state_dict()) == {'encoder.params', 'sigma_net.params', 'features_net.params'}
    assert 'table' in ngp.state_dict() and not set(ngp.state_dict()) & set(tcnn.state_dict())


def test_a_torchngp_background_configured_alike_gives_the_same_shapes():
    tcnn, ngp = made('background', 'tcnn', Background), made('background', 'torchngp', Background)
    assert isinstance(ngp, TorchNGPBackground) and set(tcnn.state_dict()) == {'net.params'}
    directions = F.normalize(torch.randn(12, 3), dim=-1)
    rays = RayBundle(torch.zeros(12, 3), directions, (1, 3, 4))
    ours, theirs = ngp(rays), tcnn(rays)
    assert ours.shape == theirs.shape == (12, 3) and theirs.dtype == torch.float32
    assert theirs.min() >= 0 and theirs.max() <= 1
    theirs.square().sum().backward()
    assert tcnn.net.params.grad.abs().sum() > 0
