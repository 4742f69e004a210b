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

"""A scene on a grid of voxels shows what the field shows."""

from dataclasses import replace

import pytest
import torch

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export import fast_views
from nemo_dreamfusion.export.fast_views import FastViews, spread
from nemo_dreamfusion.modules.backgrounds.random import RandomBackground
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.backgrounds.torchngp import TorchNGPBackground
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.modules.renderers.torchngp import TorchNGPRaymarchingRenderer
from nemo_dreamfusion.modules.renderers.voxels import activate, deactivate, make_voxels
from nemo_dreamfusion.parts.images import compute_psnr

pytestmark = pytest.mark.unit


class Scenery:
    """A model as :class:`FastViews` takes it: a field with its renderer; it counts the views it was asked for."""

    def __init__(self, activation='softplus'):
        torch.manual_seed(0)
        encoder = {'num_levels': 4, 'log2_hashmap_size': 14, 'base_resolution': 4, 'desired_resolution': 16}
        field = TorchNGPField(encoder_cfg=encoder, density_activation=activation, blob_density=8.0, bound=1.2)
        torch.nn.init.uniform_(field.table, -1, 1)
        self.scene = Scene(field, BasicShading(), StaticBackground(color=[0.2, 0.4, 0.6]))
        self.renderer = TorchNGPRaymarchingRenderer(bound=1.2, max_steps=96, grid_resolution=24).eval()
        for _ in range(2):
            self.renderer.refresh(field.density, 0, None)
        self.asked = 0

    @torch.no_grad()
    def render_cameras(self, cameras, *, with_normals=False):
        self.asked += 1
        return self.renderer.render(rays(cameras), self.scene, with_normals=with_normals)

    def render_background(self, cameras):
        return torch.tensor([0.2, 0.4, 0.6]).expand(len(cameras), cameras.height, cameras.width, 3)


def view(size=64):
    return OrbitCameras(views=3, elevation_deg=20, distance=4.0, fov_deg=40, height=size, width=size)[1]


def test_a_large_picture_needs_a_part_of_its_rays(monkeypatch):
    model, camera, asked = Scenery(), view(384), []
    grid = make_voxels(model.scene, model.renderer, 48)
    march = type(grid)._march
    monkeypatch.setattr(type(grid), '_march', lambda self, o, d: asked.append(len(o)) or march(self, o, d))
    found = grid.render(camera, model.render_background(camera))
    some, asked[:] = sum(asked), []
    monkeypatch.setattr(type(grid), '_stride', lambda *_: 1)
    exact = grid.render(camera, model.render_background(camera))
    assert some < 0.7 * sum(asked) == 0.7 * 384**2
    assert compute_psnr(found.image, exact.image) > 50 and compute_psnr(found.opacity, exact.opacity) > 50


@pytest.mark.parametrize('activation', ['softplus', 'exp'])
@pytest.mark.parametrize('with_normals', [False, True])
def test_a_grid_shows_what_the_field_shows(activation, with_normals):
    model = Scenery(activation)
    exact = model.render_cameras(view(), with_normals=with_normals)
    grid = make_voxels(model.scene, model.renderer, 96, with_normals=with_normals)
    found = grid.render(view(), model.render_background(view()))
    assert 0.05 < exact.opacity.mean() < 0.95
    assert compute_psnr(found.opacity, exact.opacity) > 40
    assert compute_psnr(found.depth * found.opacity / 4, exact.depth * exact.opacity / 4) > 40
    if with_normals:
        assert compute_psnr(found.normals, exact.normals) > 30
    else:
        assert compute_psnr(found.image, exact.image) > 40


@pytest.mark.parametrize('activation', ['softplus', 'exp'])
def test_a_raw_density_is_that_of_the_density(activation):
    field = Scenery(activation).scene.field
    raw = torch.linspace(-9, 60, 200)
    torch.testing.assert_close(deactivate(field, activate(field, raw)), raw, atol=2e-3, rtol=1e-3)


def test_many_pixels_come_from_a_grid_and_few_from_the_field():
    model = Scenery()
    few, many = FastViews(model, 10, [view()]), FastViews(model, fast_views._WORTH, [view()])
    for _ in range(3):
        few.render(view())
    assert model.asked == 3
    shown = [many.render(view()).image for _ in range(3)]
    assert model.asked == 4  # one small view to compare with
    assert compute_psnr(shown[0], model.render_cameras(view()).image) > 40 and torch.equal(shown[0], shown[2])


def test_a_field_too_fine_for_a_grid_is_asked_itself(monkeypatch):
    monkeypatch.setattr(fast_views, '_RESOLUTIONS', (8, 12))
    model = Scenery()
    smooth = model.scene.field.raw
    monkeypatch.setattr(
        model.scene.field, 'raw', lambda x, with_albedo: (smooth(x, with_albedo=False)[0], 9 * torch.sin(80 * x))
    )
    views = FastViews(model, fast_views._WORTH, [view()])
    assert torch.equal(views.render(view()).image, model.render_cameras(view()).image)
    assert model.asked == 3


class TwoFaced(Scenery):
    """Shows something else from behind, which no grid of its field does."""

    def render_cameras(self, cameras, *, with_normals=False):
        out = super().render_cameras(cameras, with_normals=with_normals)
        behind = cameras.azimuth_deg.abs().view(-1, 1, 1, 1) > 90
        return replace(out, image=torch.where(behind, 1 - out.image, out.image))


def test_a_grid_is_judged_from_more_than_the_first_side():
    model = TwoFaced()
    orbit = OrbitCameras(views=8, elevation_deg=0, distance=4.0, fov_deg=40, height=64, width=64)
    assert [float(camera.azimuth_deg) % 360 for camera in spread(orbit)] == [0, 90, 180, 270]
    one_side, all_round = (FastViews(model, fast_views._WORTH, judges) for judges in ([orbit[0]], spread(orbit)))
    exact = model.render_cameras(orbit[4]).image
    assert compute_psnr(one_side.render(orbit[4]).image, exact) < fast_views.GOOD_PSNR
    assert torch.equal(all_round.render(orbit[4]).image, exact)


def test_an_empty_scene_is_its_background():
    model = Scenery()
    model.renderer.grid.occupied.fill_(False)
    out = make_voxels(model.scene, model.renderer, 16).render(view(), model.render_background(view()))
    assert torch.equal(out.image, model.render_background(view())) and out.opacity.max() == 0


def test_one_colour_behind_everything_needs_no_rays():
    background = StaticBackground(color=[0.2, 0.4, 0.6])
    bundle = rays(view(8))
    assert torch.equal(background.eval()(bundle), background.uniform().expand(64, 3))
    plain = RandomBackground(color=[0.1, 0.2, 0.3]).eval()
    assert torch.equal(plain(bundle), plain.uniform().expand(64, 3))
    assert TorchNGPBackground().uniform() is None
