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

"""The mesh renderer: where it draws, what it draws, what gets gradients, and what it refuses."""

import math

import pytest
import torch
from analytic_fields import asymmetric
from refusals import NO_VALUE, refusal
from torch import nn

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.modules.backgrounds.static import StaticBackground
from nemo_dreamfusion.modules.materials.basic_shading import BasicShading
from nemo_dreamfusion.modules.nerf.base import RadianceField
from nemo_dreamfusion.modules.nerf.dmtet import TetrahedralSurface
from nemo_dreamfusion.modules.nerf.mesh_surface import MeshSurface, ball
from nemo_dreamfusion.modules.renderers.base import Scene
from nemo_dreamfusion.modules.renderers.mesh import MeshRenderer
from nemo_dreamfusion.parts.types import SHADINGS, Light, RayBundle, TriangleMesh

pytestmark = pytest.mark.unit

RADIUS, DISTANCE = 0.5, 3.0


class OneColour(RadianceField):
    """An albedo that is learnt, the same everywhere."""

    def __init__(self):
        super().__init__()
        self.color = nn.Parameter(torch.tensor([1.0, 0.0, -1.0]))

    def raw(self, positions, *, with_albedo):
        return positions[:, 0] * 0, self.color.expand(len(positions), 3)


def scene(color=(0.0, 1.0, 0.0)):
    return Scene(OneColour(), BasicShading(), StaticBackground(color=color))


def view(count=1, height=64, width=64):
    index = torch.arange(count).float()
    return rays(cameras_from_orbit(40 * index, 20 - 10 * index, index * 0 + DISTANCE, index * 0 + 40, height, width))


def sphere(subdivisions=5):
    surface = MeshSurface()
    surface.start_from(TriangleMesh(*ball(RADIUS, subdivisions)))
    return MeshRenderer(surface=surface)


def test_a_ball_is_seen_where_rays_meet_it():
    """Opacity, depth and normals of a ball, and its outline, by the formula for a ray and a sphere; wide images too."""
    bundle = view(3, 48, 80)
    out = sphere().render(bundle, scene(), with_normals=True)
    along = -(bundle.origins * bundle.directions).sum(-1)  # to the place nearest to the centre
    miss = (bundle.origins + along[:, None] * bundle.directions).norm(dim=-1)
    depth = along - (RADIUS**2 - miss.square()).clamp(min=0).sqrt()
    opacity = out.opacity.flatten()
    assert (opacity[miss < 0.96 * RADIUS] == 1).all() and (opacity[miss > 1.06 * RADIUS] == 0).all()
    inside = miss < 0.9 * RADIUS
    torch.testing.assert_close(out.depth.flatten()[inside], depth[inside], atol=2e-3, rtol=0)
    normals = (bundle.origins + depth[:, None] * bundle.directions) / RADIUS
    torch.testing.assert_close(out.normals.view(-1, 3)[inside], normals[inside], atol=0.02, rtol=0)
    sine = RADIUS / DISTANCE  # of the half angle under which the ball is seen
    area = math.pi * sine**2 / (1 - sine**2) / math.tan(math.radians(20)) ** 2 * (48 / 2) ** 2
    torch.testing.assert_close(out.opacity.sum((1, 2, 3)), torch.full((3,), area), rtol=0.01, atol=0)


def test_nothing_is_mirrored_or_swapped():
    """A mesh of a lopsided solid, seen from three sides: each pixel's ray meets the solid where the renderer says."""
    surface = TetrahedralSurface(cells=40, bound=1.2)
    surface.start_from_distance(asymmetric(surface.grid_vertices))
    bundle = view(3)
    with torch.no_grad():
        out = MeshRenderer(surface=surface, bound=1.2).render(bundle, scene())
    hit = bundle.origins + out.depth.view(-1, 1) * bundle.directions
    seen = out.opacity.flatten() == 1
    assert seen.float().mean() > 0.1 and asymmetric(hit[seen]).abs().quantile(0.95) < 0.02


def test_d31_empty_pixels_show_the_background_and_mixed_ones_both():
    out = sphere().render(view(2), scene((0.25, 0.5, 0.75)))
    background, color = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([1.0, 0.0, -1.0]).sigmoid()
    torch.testing.assert_close(out.image, out.opacity * color + (1 - out.opacity) * background)
    assert ((out.opacity > 0) & (out.opacity < 1)).any()


def test_d32_depth_is_the_distance_along_the_ray():
    out = sphere().render(view(1, 33, 33), scene())
    assert out.depth[0, 16, 16, 0].item() == pytest.approx(DISTANCE - RADIUS, abs=1e-3)
    assert (out.depth[out.opacity == 0] == 0).all()


def test_a_light_shines_on_the_side_that_faces_it():
    light = Light(direction=torch.tensor([[0.0, 1.0, 0.0]]), ambient=0.25)
    out = sphere().render(view(1, 65, 65), scene(), shading='textureless', light=light)
    column = out.image[0, :, 32, 0][out.opacity[0, :, 32, 0] == 1]
    assert column[:5].mean() > 0.8 and column[-5:].mean().item() == pytest.approx(0.25)


def test_d35_a_surface_that_has_vanished_shows_the_background_and_ends_a_training():
    renderer = MeshRenderer(surface=TetrahedralSurface(cells=6))
    with torch.no_grad():
        renderer.surface.distance.fill_(1.0)
    renderer.eval()
    for shading in SHADINGS:
        out = renderer.render(view(), scene(), shading=shading, with_normals=True)
        assert (out.opacity == 0).all() and (out.image == torch.tensor([0.0, 1.0, 0.0])).all()
    with refusal('surface', NO_VALUE, 'model.optim.lr'):
        renderer.train().render(view(), scene())


def test_outlines_and_normals_move_the_surface_and_colours_the_field_alone():
    for shading, moves in (('albedo', False), ('normal', True)):
        renderer, parts = MeshRenderer(surface=TetrahedralSurface(cells=8)), scene()
        out = renderer.render(view(1, 32, 32), parts, shading=shading)
        inner = (out.opacity == 1).float()  # away from the outline
        (inner * out.image).sum().backward()
        distance = renderer.surface.distance.grad
        assert (distance is not None and distance.abs().sum() > 0) == moves
        assert (parts.field.color.grad is not None) != moves
    out = renderer.render(view(1, 32, 32), parts)
    renderer.zero_grad()
    out.opacity.sum().backward()
    step = renderer.surface.distance + 1e-3 * renderer.surface.distance.grad.sign()
    with torch.no_grad():
        renderer.surface.distance.copy_(step)
        assert renderer.render(view(1, 32, 32), parts).opacity.sum() > out.opacity.sum()


def test_d28_a_saved_surface_comes_back_and_is_not_begun_again():
    """Whatever density the field has: nothing is added to the distances that were learnt."""
    torch.manual_seed(0)
    for make in (lambda: TetrahedralSurface(cells=8), MeshSurface):
        renderer, other, parts = MeshRenderer(surface=make()), MeshRenderer(surface=make()), scene()
        renderer.surface.start_from(TriangleMesh(*ball(0.7, 2)))
        with torch.no_grad():
            for parameter in renderer.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        other.load_state_dict(renderer.state_dict())
        for step in range(2):
            other.update(parts.field.density, step)
        images = [r.render(view(), parts, shading='normal').image for r in (renderer, other)]
        assert torch.equal(*images)


def test_what_it_reads_of_a_render_is_there_for_the_losses():
    out = MeshRenderer(surface=TetrahedralSurface(cells=8)).render(view(), scene(), with_normals=True)
    assert (out.opacity == 1).sum() <= len(out.samples.weights) <= (out.opacity > 0).sum()
    assert (out.samples.normals * out.samples.directions).sum(-1).mean() < -0.5
    assert (out.mesh.crossings.prod(1) <= 0).all() and len(out.mesh.crossings) == len(out.mesh.vertices)


def test_what_cannot_be_drawn_is_refused():
    bundle = view()
    without = RayBundle(bundle.origins, bundle.directions, bundle.image_shape)
    with refusal('rays.cameras', None, 'nemo_dreamfusion.data.cameras.rays'):
        sphere().render(without, scene())
    with refusal('with_jittered_normals', True, 'model.loss.lambda_normal_smoothness_3d=0'):
        sphere().render(bundle, scene(), with_jittered_normals=True)
    with refusal('model.renderer.surface.bound', 2.0, 'model.renderer.bound'):
        MeshRenderer(surface=MeshSurface(bound=2.0))
    with refusal('model.renderer.rasteriser', 'opengl', 'own', 'nvdiffrast'):
        MeshRenderer(surface=MeshSurface(), rasteriser='opengl')
