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

"""What a texture shows against its field: of an opaque field, its albedo and its renders; of a foggy one, its renders."""

import numpy as np
import pytest
import torch
from analytic_fields import Field, Model, ball

pytestmark = pytest.mark.filterwarnings('ignore')

SMALL = dict(resolution=64, faces=1500, texture_size=512)


@pytest.fixture
def textures(module, monkeypatch):
    found = module('textures')
    monkeypatch.setattr(found, 'SIZE', 48)
    monkeypatch.setattr(found, 'VIEWS', 2)
    return found


def test_the_texture_of_an_opaque_field_is_its_albedo_on_the_surface(textures, tmp_path):
    found = textures.measure(Model(), tmp_path / 'mesh.glb', **SMALL)
    assert found['baked'] > 35 and found['surface'] > 35 and found['seen'] > 35  # dB
    assert found['render'] > 30 and found['bare'] > 30
    assert found['uv_use'] >= 0.6 and found['iou'] > 0.93


def test_the_texture_of_a_foggy_field_is_what_cameras_see_and_not_its_albedo_on_the_surface(textures, tmp_path):
    """A ball that is opaque within a third of its radius, in shells of other colours."""

    def shells(points):
        return (0.5 + 0.5 * torch.sin(20 * points.norm(dim=-1, keepdim=True))) * torch.tensor([1.0, 0.6, 0.2])

    found = textures.measure(Model(Field(ball, shells, peak=8.0)), tmp_path / 'mesh.glb', **SMALL)
    assert found['render'] > found['bare'] + 5 and found['baked'] > 30
    assert np.isfinite(list(found.values())).all()
