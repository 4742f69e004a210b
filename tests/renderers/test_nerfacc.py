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
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.nerf.torchngp import TorchNGPField
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.modules.renderers.nerfacc import NerfAccRenderer
from nemo_dreamfusion.modules.renderers.torchngp import TorchNGPRaymarchingRenderer
from nemo_dreamfusion.parts.types import SHADINGS, Light, RayBundle

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
def test_same_images_as_our_own_renderer(shading, training):
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
    with refusal("'nerfacc'", NO_VALUE, 'Install it', 'model/renderer=torchngp_raymarching'):
        NerfAccRenderer(**SIZES)


GPU = 'cuda'


def on_gpu(scene, renderers):
    """All of it, and the view's rays, on the GPU."""
    for part in (scene.field, scene.material, scene.background, *renderers):
        part.to(GPU)
    bundle = view()
    return RayBundle(bundle.origins.to(GPU), bundle.directions.to(GPU), bundle.image_shape)


@pytest.mark.gpu
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shading', ['albedo', 'lambertian'])
def test_on_a_gpu_the_packed_kernels_give_our_own_image_and_gradients(shading, training):
    """NerfAcc places its samples itself there, so the images are near each other, not equal."""
    scene = make_scene()
    renderers = both(scene)
    bundle = on_gpu(scene, renderers)
    light = Light(direction=torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], device=GPU), ambient=0.2)
    outs, gradients = [], []
    for renderer in renderers:
        scene.field.zero_grad()
        out = renderer.train(training).render(bundle, scene, shading=shading, light=light, with_normals=True)
        (out.image.square().sum() + out.opacity.sum()).backward()
        outs.append(out)
        gradients.append(torch.cat([p.grad.flatten() for p in scene.field.parameters() if p.grad is not None]))
    ours, theirs = outs
    for name in ('image', 'opacity', 'normals'):
        assert (getattr(ours, name) - getattr(theirs, name)).abs().mean() < 0.02, name
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.95
    assert theirs.samples.weights.device.type == GPU and len(theirs.samples.weights) > 100


@pytest.mark.gpu
def test_on_a_gpu_packed_weights_and_sums_are_ours_on_the_same_samples():
    scene = make_scene()
    ngp, acc = both(scene)
    bundle = on_gpu(scene, (ngp, acc))
    samples = ngp.eval().sample(bundle.origins, bundle.directions, scene.field.density, None)
    density = scene.field.density(torch.rand(len(samples), 3, device=GPU) - 0.5).detach()
    values = torch.rand(len(samples), 3, device=GPU)
    found = []
    for renderer in (ngp, acc):
        leaf = density.clone().requires_grad_(True)
        weights = renderer.weights(leaf, samples)
        sums = renderer.accumulate(weights, values, samples, len(bundle))
        found.append((weights, sums, *torch.autograd.grad(sums.square().sum(), leaf)))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
