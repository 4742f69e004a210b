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


"""The radiance field: activations, blob, normals, parameter groups."""

import math
import sys
import types

import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.modules.nerf.base import NORMAL_TYPES, RadianceField
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField

SMALL = {'num_levels': 4, 'log2_hashmap_size': 10, 'desired_resolution': 32}


class Ball(RadianceField):
    """Raw density -|x|^2 and constant albedo: normals point along x, whatever the blob."""

    def __init__(self, **options):
        defaults = {
            'bound': 1.0,
            'density_activation': 'softplus',
            'blob_density': 10.0,
            'blob_radius': 0.5,
            'normal_type': 'central_finite_difference',
            'normal_epsilon': 1e-3,
        }
        super().__init__(**{**defaults, **options})

    def raw(self, positions, *, with_albedo):
        return -(positions**2).sum(-1), torch.zeros_like(positions) if with_albedo else None

    def parameter_groups(self):
        return {'encoding': [], 'network': []}


def small_field(**options) -> TorchNGPField:
    torch.manual_seed(0)
    return TorchNGPField(encoder_cfg=SMALL, **options)


@pytest.mark.parametrize('normal_type', NORMAL_TYPES)
@pytest.mark.parametrize('activation', ['exp', 'softplus'])
def test_normals_point_outward(normal_type, activation):
    positions = torch.rand(50, 3) * 1.6 - 0.8
    normals = Ball(normal_type=normal_type, density_activation=activation).normals(positions)
    outward = torch.nn.functional.normalize(positions, dim=-1)
    assert (normals * outward).sum(-1).min() > 0.97


@pytest.mark.parametrize('normal_type', NORMAL_TYPES)
def test_normals_include_the_density_blob(normal_type):
    class Tilted(Ball):
        def raw(self, positions, *, with_albedo):
            return 0.5 * positions[:, 0], None

    field = Tilted(normal_type=normal_type, blob_density=10.0, blob_radius=0.5)
    # At (0, 0.3, 0) the blob falls by 10 / 0.5 per unit of y while the network rises by 0.5 per unit of x.
    expected = torch.nn.functional.normalize(torch.tensor([[-0.5, 20.0, 0.0]]), dim=-1)
    assert torch.allclose(field.normals(torch.tensor([[0.0, 0.3, 0.0]])), expected, atol=5e-3)


def test_finite_differences_stay_inside_the_bound():
    class Guarded(Ball):
        def raw(self, positions, *, with_albedo):
            assert positions.abs().max() <= self.bound
            return 2.0 * positions[:, 1], None

    field = Guarded(normal_epsilon=0.05, blob_density=0.0)
    normal = field.normals(torch.tensor([[0.0, 1.0, 0.0], [1.0, -1.0, 1.0]]))
    assert torch.allclose(normal, torch.tensor([[0.0, -1.0, 0.0]]).expand(2, 3), atol=1e-4)


@pytest.mark.parametrize('normal_type', NORMAL_TYPES)
@pytest.mark.parametrize('count', [0, 1, 3])
def test_any_number_of_points(normal_type, count):
    field = small_field(normal_type=normal_type)
    positions = torch.rand(count, 3) - 0.5
    out = field(positions)
    assert out.density.shape == (count,)
    assert out.albedo.shape == (count, 3)
    assert field.normals(positions).shape == (count, 3)


def test_blobs_have_their_published_form():
    at = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [0.5, 0.0, 0.0]])
    exp = Ball(density_activation='exp', blob_density=5.0, blob_radius=0.2).blob(at)
    assert torch.allclose(exp, torch.tensor([5.0, 5 * math.exp(-0.5), 5 * math.exp(-(0.5**2) / (2 * 0.2**2))]))
    softplus = Ball(blob_density=10.0, blob_radius=0.5).blob(at)
    assert torch.allclose(softplus, torch.tensor([10.0, 10 * (1 - 0.2 / 0.5), 0.0]), atol=1e-6)


def test_density_never_overflows():
    field = Ball(density_activation='exp')
    raw = torch.tensor([1e4], requires_grad=True)
    density = field.activate_density(raw, torch.zeros(1, 3))
    density.sum().backward()
    assert torch.isfinite(density).all() and torch.isfinite(raw.grad).all()


@pytest.mark.parametrize('normal_type', NORMAL_TYPES)
def test_gradients_reach_every_parameter_through_normals_and_albedo(normal_type):
    field = small_field(normal_type=normal_type)
    positions = torch.rand(64, 3) * 0.6 - 0.3
    out = field(positions)
    (out.density.mean() + out.albedo.mean() + field.normals(positions)[:, 0].square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in field.parameters())


def test_groups_hold_every_parameter_once():
    field = small_field()
    groups = field.parameter_groups()
    assert [id(p) for p in groups['encoding']] == [id(field.table)]
    listed = [id(p) for group in groups.values() for p in group]
    assert sorted(listed) == sorted(id(p) for p in field.parameters())


def test_coarse_to_fine_opens_levels():
    torch.manual_seed(0)
    options = {**SMALL, 'start_level': 1, 'level_start_step': 10, 'level_interval': 5}
    field = TorchNGPField(encoder_cfg=options)
    positions = torch.rand(8, 3) - 0.5
    opened = []
    for step in (0, 9, 10, 15, 25, 10_000):
        field.set_progress(step)
        opened.append(int((field.encode(positions).abs().sum(0) > 0).sum()) // 2)
    assert opened == [1, 1, 1, 2, 4, 4]


@pytest.mark.parametrize(
    ('options', 'key', 'value', 'way_out'),
    [
        ({'density_activation': 'relu'}, 'model.nerf.density_activation', 'relu', 'softplus'),
        ({'normal_type': 'finite'}, 'model.nerf.normal_type', 'finite', 'autograd'),
        ({'bound': 0}, 'model.nerf.bound', 0, 'greater than 0'),
        (
            {'encoder_cfg': {'num_level': 3}},
            'model.nerf.encoder_cfg.num_level',
            NO_VALUE,
            'model.nerf.encoder_cfg.num_levels',
        ),
        ({'sigma_net_cfg': {'num_layers': 0}}, 'model.nerf.sigma_net_cfg.num_layers', 0, 'at least 1'),
    ],
)
def test_bad_options_are_refused(options, key, value, way_out):
    with refusal(key, value, way_out):
        TorchNGPField(**options)


def test_tcnn_without_its_package_or_its_gpu_names_the_way_out(monkeypatch):
    from nemo_dreamfusion.modules.nerf.tcnn import TCNNField

    monkeypatch.setitem(sys.modules, 'tinycudann', None)
    with refusal("'tinycudann'", NO_VALUE, 'Install it', 'model/nerf=torchngp'):
        TCNNField()
    monkeypatch.setitem(sys.modules, 'tinycudann', types.ModuleType('tinycudann'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with refusal('model/nerf=tcnn', 'GPU', 'model/nerf=torchngp'):
        TCNNField()
    with refusal('model.nerf.density_activation', 'relu', 'softplus'):
        TCNNField(density_activation='relu')
