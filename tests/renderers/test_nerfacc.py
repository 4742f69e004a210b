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


"""The NerfAcc renderer gives what the Torch-NGP renderer gives, on the same samples."""

import sys

import pytest
import torch

pytest.importorskip('nerfacc')

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.modules.renderers.nerfacc import NerfAccRenderer
from nemo_dreamfusion.modules.renderers.torchngp import TorchNGPRaymarchingRenderer
from nemo_dreamfusion.parts.specs import SHADINGS, Light

SIZES = {'max_steps': 64, 'grid_resolution': 16}


def make_scene() -> Scene:
    torch.manual_seed(0)
    field = TorchNGPField(encoder_cfg={'num_levels': 4, 'log2_hashmap_size': 10, 'desired_resolution': 32})
    with torch.no_grad():
        field.table.mul_(3e3)  # something that is not only the blob
    return Scene(field=field, material=BasicShading(), background=StaticBackground(color=[0.1, 0.2, 0.3]))


def view(size=12):
    same = torch.ones(2)
    return rays(cameras_from_orbit(torch.tensor([20.0, 200.0]), same * 15, same * 3.2, same * 36, size, size))


def both(scene):
    """Both renderers with one occupancy: what the Torch-NGP one saw."""
    ngp, acc = TorchNGPRaymarchingRenderer(**SIZES), NerfAccRenderer(**SIZES)
    ngp.grid.update(scene.field.density)
    acc.estimator.binaries[0] = ngp.grid.occupied
    return ngp, acc


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shading', SHADINGS)
def test_d1_to_d4_same_images_as_our_own_renderer(shading, training):
    scene = make_scene()
    light = Light(direction=torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), ambient=0.2)
    outs = []
    for renderer in both(scene):
        renderer.train(training)
        generator = torch.Generator().manual_seed(1)
        outs.append(
            renderer.render(view(), scene, shading=shading, light=light, with_normals=True, generator=generator)
        )
    ours, theirs = outs
    for name in ('image', 'opacity', 'depth', 'normals'):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-4), name
    assert len(ours.samples.weights) == len(theirs.samples.weights) > 100


def test_same_gradients():
    scene = make_scene()
    gradients = []
    for renderer in both(scene):
        scene.field.zero_grad()
        out = renderer.render(view(), scene, generator=torch.Generator().manual_seed(1))
        (out.image.square().sum() + out.opacity.sum() + 0.1 * out.depth.sum()).backward()
        gradients.append([p.grad.clone() for p in scene.field.parameters()])
    for ours, theirs in zip(*gradients):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_an_empty_scene_shows_the_background():
    scene = make_scene()
    renderer = NerfAccRenderer(**SIZES)
    renderer.estimator.binaries.fill_(False)
    out = renderer.render(view(), scene, shading='lambertian')
    assert torch.allclose(out.image, torch.tensor([0.1, 0.2, 0.3]).expand_as(out.image))
    assert out.opacity.abs().max() == 0


def test_the_grid_is_updated_from_our_generator_alone():
    scene = make_scene()
    grids = []
    for _ in range(2):
        renderer = NerfAccRenderer(**SIZES)
        state = torch.get_rng_state()
        renderer.update(scene.field.density, 0, torch.Generator().manual_seed(5))
        assert torch.equal(state, torch.get_rng_state())
        grids.append(renderer.estimator.occs.clone())
        torch.rand(3)
    assert torch.equal(*grids) and 0 < renderer.estimator.binaries.float().mean() < 1


def test_without_nerfacc_the_error_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, 'nerfacc', None)
    with pytest.raises(ValueError, match='model/renderer=torchngp_raymarching'):
        NerfAccRenderer(**SIZES)
