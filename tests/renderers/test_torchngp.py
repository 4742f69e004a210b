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


"""The Torch-NGP ray-marching renderer against closed forms and laws that hold whatever is rendered."""

import math

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.modules.renderers.torchngp import TorchNGPRaymarchingRenderer
from nemo_dreamfusion.parts.types import SHADINGS, Light, RayBundle


class Solid(RadianceField):
    """A field of our own: density_at and albedo_at are functions of positions [N, 3]."""

    def __init__(self, density_at, albedo_at=torch.ones_like):
        super().__init__(
            bound=1.0,
            density_activation='softplus',
            blob_density=0.0,
            blob_radius=1.0,
            normal_type='central_finite_difference',
            normal_epsilon=1e-2,
        )
        self.density_at, self.albedo_at = density_at, albedo_at

    def forward(self, positions, *, with_albedo=True):
        from nemo_dreamfusion.parts.types import FieldOutput

        return FieldOutput(self.density_at(positions), self.albedo_at(positions) if with_albedo else None)


def scene_of(field, color=(0.0, 0.0, 1.0)) -> Scene:
    return Scene(field=field, material=BasicShading(), background=StaticBackground(color=color))


def sphere(radius: float, density: float):
    return Solid(lambda x: density * (x.norm(dim=-1) < radius).float())


def empty() -> Solid:
    return Solid(lambda x: x.new_zeros(len(x)))


def cameras(count=2, size=16, elevation=20.0):
    azimuth = torch.arange(count) * 90.0
    same = torch.ones(count)
    return cameras_from_orbit(azimuth, same * elevation, same * 3.0, same * 40.0, size, size)


def one_ray(origin, direction) -> RayBundle:
    direction = torch.nn.functional.normalize(torch.tensor([direction]), dim=-1)
    return RayBundle(origins=torch.tensor([origin]), directions=direction, image_shape=(1, 1, 1))


def test_a_ray_through_a_sphere_of_constant_density_has_its_analytic_transmittance():
    renderer = TorchNGPRaymarchingRenderer(max_steps=4096, transmittance_thresh=0.0).eval()
    offset = 0.3
    out = renderer.render(one_ray((offset, 0.0, 3.0), (0.0, 0.0, -1.0)), scene_of(sphere(0.6, 2.0)))
    chord = 2 * math.sqrt(0.6**2 - offset**2)
    assert abs(out.opacity.item() - (1 - math.exp(-2.0 * chord))) < 2e-3
    assert torch.allclose(
        out.image.flatten(), out.opacity.item() + (1 - out.opacity.item()) * torch.tensor([0, 0, 1.0])
    )


def test_depth_is_the_distance_along_the_ray():
    renderer = TorchNGPRaymarchingRenderer(max_steps=4096).eval()
    out = renderer.render(one_ray((0.0, 1.5, 3.0), (0.0, -1.5, -3.0)), scene_of(sphere(0.5, 1e4)))
    assert abs(out.depth.item() - (math.hypot(1.5, 3.0) - 0.5)) < 2e-3


def test_the_variance_of_the_depth_is_that_of_where_light_is_absorbed():
    """Absorption at density d begins at the surface and falls as exp(-d z), whose variance is 1 / d^2."""
    renderer = TorchNGPRaymarchingRenderer(max_steps=4096, transmittance_thresh=0.0).eval()
    for density in (20.0, 40.0):
        out = renderer.render(one_ray((0.0, 0.0, 3.0), (0.0, 0.0, -1.0)), scene_of(sphere(0.6, density)))
        assert out.depth_variance.item() == pytest.approx(1 / density**2, rel=0.03)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shading', SHADINGS)
def test_every_shading_of_an_empty_scene_shows_the_background(shading, training):
    renderer = TorchNGPRaymarchingRenderer(max_steps=64, grid_resolution=8).train(training)
    renderer.update(empty().density, 0)
    view = cameras(count=1)
    light = Light(direction=torch.tensor([[0.0, 1.0, 0.0]]), ambient=0.1)
    out = renderer.render(
        rays(view), scene_of(empty()), shading=shading, light=light, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(out.image, torch.tensor([0.0, 0.0, 1.0]).expand(1, 16, 16, 3))
    assert out.opacity.abs().max() == 0 and out.depth.abs().max() == 0


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('shading', SHADINGS)
def test_all_fields_of_the_output_are_filled(shading, training):
    renderer = TorchNGPRaymarchingRenderer(max_steps=64, grid_resolution=8).train(training)
    view = cameras(count=2, size=8)
    out = renderer.render(rays(view), scene_of(sphere(0.5, 50.0)), shading=shading, with_jittered_normals=True)
    assert out.image.shape == (2, 8, 8, 3) and out.opacity.shape == out.depth.shape == (2, 8, 8, 1)
    assert out.normals.shape == (2, 8, 8, 3)
    count = len(out.samples.weights)
    for values in (out.samples.positions, out.samples.normals, out.samples.normals_jittered, out.samples.directions):
        assert values.shape == (count, 3)
    assert out.image.min() >= 0 and out.image.max() <= 1 + 1e-5
    assert out.opacity.max() > 0.99


def test_skipping_empty_cells_and_dropping_hidden_samples_change_nothing_visible():
    field = sphere(0.45, 30.0)
    plain = TorchNGPRaymarchingRenderer(
        max_steps=256, grid_resolution=32, transmittance_thresh=0.0, samples_per_chunk=2**20
    ).eval()
    quick = TorchNGPRaymarchingRenderer(
        max_steps=256, grid_resolution=32, transmittance_thresh=1e-4, samples_per_chunk=2**20
    ).eval()
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        quick.grid.update(field.density, generator)
    assert quick.grid.occupied.float().mean() < 0.1
    view = rays(cameras(size=32))
    before, after = plain.render(view, scene_of(field)), quick.render(view, scene_of(field))
    assert (before.image - after.image).abs().max() < 0.06
    assert (before.image - after.image).abs().mean() < 1e-3
    assert len(after.samples.weights) < 0.2 * len(before.samples.weights)


def test_rays_in_chunks_give_the_same_image():
    field = sphere(0.5, 20.0)
    view = rays(cameras(size=12))
    whole = TorchNGPRaymarchingRenderer(max_steps=128, grid_resolution=16).eval().render(view, scene_of(field))
    parts = TorchNGPRaymarchingRenderer(max_steps=128, grid_resolution=16, samples_per_chunk=128 * 37).eval()
    chunked = parts.render(view, scene_of(field))
    assert torch.allclose(whole.image, chunked.image, atol=1e-6)
    assert torch.allclose(whole.depth, chunked.depth, atol=1e-6)
    assert chunked.samples is None


def test_evaluation_never_asks_for_more_samples_at_once_than_its_budget():
    asked = []

    def fog(positions):  # nothing is hidden, nothing is skipped
        asked.append(len(positions))
        return torch.full_like(positions[:, 0], 0.01)

    renderer = TorchNGPRaymarchingRenderer(max_steps=128, grid_resolution=16, samples_per_chunk=1000).eval()
    renderer.render(rays(cameras(size=12)), scene_of(Solid(fog)), with_normals=True)
    assert sum(asked) > 20_000
    assert max(asked) <= 6 * 1000  # central differences look at six points a sample


def test_left_and_right_are_not_mirrored():
    # A ball at +x: seen from the front (camera on +z, its right is +x) it stands in the right half of the image.
    ball = Solid(lambda x: 100.0 * ((x - torch.tensor([0.6, 0.0, 0.0])).norm(dim=-1) < 0.2).float())
    renderer = TorchNGPRaymarchingRenderer(max_steps=256, grid_resolution=16).eval()
    front = renderer.render(rays(cameras(count=1, size=32, elevation=0.0)), scene_of(ball)).opacity[0, :, :, 0]
    assert front[:, 16:].sum() > 20 and front[:, :16].sum() == 0


def test_gradients_reach_density_and_albedo():
    density, albedo = torch.tensor(3.0, requires_grad=True), torch.tensor([0.2, 0.5, 0.7], requires_grad=True)
    field = Solid(lambda x: density * (x.norm(dim=-1) < 0.5).float(), lambda x: albedo.expand(len(x), 3))
    renderer = TorchNGPRaymarchingRenderer(max_steps=512, transmittance_thresh=0.0, grid_resolution=8)
    out = renderer.render(one_ray((0.0, 0.0, 3.0), (0.0, 0.0, -1.0)), scene_of(field, color=(0.0, 0.0, 0.0)))
    out.image.sum().backward()
    gone = math.exp(-3.0 * 1.0)  # the chord is 1 long
    assert abs(density.grad.item() - (0.2 + 0.5 + 0.7) * gone) < 2e-2
    assert torch.allclose(albedo.grad, torch.full((3,), 1 - gone), atol=1e-2)


def test_a_step_draws_only_from_its_generator():
    field = sphere(0.5, 20.0)
    renderer = TorchNGPRaymarchingRenderer(max_steps=64, grid_resolution=8)
    view = rays(cameras(size=8))
    first = renderer.render(view, scene_of(field), generator=torch.Generator().manual_seed(3)).image
    torch.rand(10)
    again = renderer.render(view, scene_of(field), generator=torch.Generator().manual_seed(3)).image
    other = renderer.render(view, scene_of(field), generator=torch.Generator().manual_seed(4)).image
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ('name', 'value', 'allowed'),
    [
        ('max_steps', 1, 'at least 2'),
        ('grid_resolution', 0, 'at least 2'),
        ('bound', -1, 'greater than 0'),
        ('transmittance_thresh', 2, 'at most 0.5'),
    ],
)
def test_bad_options_are_refused(name, value, allowed):
    with refusal(f'model.renderer.{name}', value, allowed):
        TorchNGPRaymarchingRenderer(**{name: value})
