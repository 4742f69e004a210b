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

"""The field as an ONNX model gives what torch gives."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from refusals import refusal
from torch import nn

from nemo_dreamfusion.export.field import export_field
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField

onnxruntime = pytest.importorskip('onnxruntime')


def make_field(**options) -> TorchNGPField:
    """Four levels, of which the first has a row for each corner and the others hash; values that matter."""
    torch.manual_seed(0)
    grid = {'num_levels': 4, 'log2_hashmap_size': 10, 'base_resolution': 8, 'desired_resolution': 64}
    field = TorchNGPField(encoder_cfg=grid, **options)
    with torch.no_grad():
        field.table.normal_()
    return field


@pytest.mark.parametrize(
    'options',
    [
        {'density_activation': 'exp', 'bound': 1.5},
        {'density_activation': 'softplus'},
        {'blob_radius': 0.3, 'features_net_cfg': {'num_layers': 1}},
    ],
)
@torch.no_grad()
def test_onnxruntime_gives_density_and_colour_at_any_number_of_points(tmp_path, options):
    field = make_field(**options)
    assert field.layout.hashed == (False, True, True, True)
    export_field(SimpleNamespace(nerf=field), tmp_path / 'field.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'field.onnx'), providers=['CPUExecutionProvider'])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [('positions', ['N', 3])]
    for count in (1, 500):
        positions = (torch.rand(count, 3, generator=torch.Generator().manual_seed(count)) * 2 - 1) * field.bound
        found = session.run(['density', 'albedo'], {'positions': positions.numpy()})
        wanted = field(positions)
        torch.testing.assert_close(torch.tensor(found[0]), wanted.density, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.tensor(found[1]), wanted.albedo, rtol=0, atol=1e-5)
        assert wanted.albedo.shape == (count, 3)
    assert wanted.density.std() > 0.1 and wanted.albedo.std() > 0.01


def test_the_field_itself_is_left_as_it_was(tmp_path):
    field = make_field().train()
    before = copy.deepcopy(field.state_dict())
    export_field(SimpleNamespace(nerf=field), tmp_path / 'field.onnx')
    assert field.training and all(p.requires_grad for p in field.parameters())
    assert all(torch.equal(value, before[key]) for key, value in field.state_dict().items())


class WithoutOperations(torch.autograd.Function):
    """A kernel that no ONNX operation stands for, as tiny-cuda-nn's are."""

    @staticmethod
    def forward(ctx, x):
        return torch.special.bessel_j0(x)


class KernelField(RadianceField):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def raw(self, positions, *, with_albedo):
        return WithoutOperations.apply(positions[:, 0] * self.scale), positions


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    with refusal('KernelField', 'ONNX', 'model/nerf=torchngp'):
        export_field(SimpleNamespace(nerf=KernelField()), tmp_path / 'field.onnx')
    with refusal('path', str(tmp_path / 'field.glb'), '.onnx'):
        export_field(SimpleNamespace(nerf=make_field()), tmp_path / 'field.glb')
    assert list(tmp_path.iterdir()) == []
