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

"""Models whose field is a formula, for the tests of exported assets."""

import torch

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.parts.types import FieldOutput, RenderOutput

BOUND = 1.2  # not 1, so that a forgotten scale shows


def asymmetric(points):
    """A long box toward +x, a ball above it, a small ball in front: no axis can be swapped or mirrored unseen."""
    half = torch.tensor([0.7, 0.15, 0.25])
    q = (points - torch.tensor([0.3, -0.4, 0.0])).abs() - half
    box = q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)
    ball = (points - torch.tensor([0.0, 0.1, -0.1])).norm(dim=-1) - 0.4
    nose = (points - torch.tensor([0.0, 0.1, 0.4])).norm(dim=-1) - 0.2
    return torch.minimum(torch.minimum(box, ball), nose)


def ball(points):
    return points.norm(dim=-1) - 0.7


def position_color(points):
    return (points + BOUND) / (2 * BOUND)


def sign_color(points):
    """Red with a white letter F on the box's front, which a mirror would turn round; the back is green."""
    x, y, z = points.unbind(-1)
    stem = (x > 0.1) & (x < 0.2) & (y > -0.53) & (y < -0.27)
    bars = (x > 0.1) & (((x < 0.45) & (y > -0.34) & (y < -0.27)) | ((x < 0.35) & (y > -0.44) & (y < -0.38)))
    letter = ((stem | bars) & (z > 0.1))[..., None]
    ground = torch.where(z[..., None] > -0.1, torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.5, 0.3]))
    return torch.where(letter, torch.tensor([0.95, 0.9, 0.85]), ground)


class Field(torch.nn.Module):
    """``peak`` inside of the surface, nothing outside; the colour tells the position."""

    bound = BOUND

    def __init__(self, distance=asymmetric, color=position_color, peak=400.0):
        super().__init__()
        self.distance, self.color, self.peak = distance, color, peak

    def density(self, positions):
        return self.peak * torch.sigmoid(-self.distance(positions) / 0.003)

    def forward(self, positions):
        return FieldOutput(density=self.density(positions), albedo=self.color(positions))


class Model:
    """Renders its field by plain quadrature along each ray, on white."""

    def __init__(self, field=None):
        self.nerf = field or Field()

    def render_cameras(self, cameras, steps=300):
        bundle = rays(cameras)
        t = torch.linspace(1.5, 6.5, steps)
        points = bundle.origins[:, None] + t[None, :, None] * bundle.directions[:, None]
        inside = (points.abs() <= BOUND).all(-1)
        out = self.nerf(points.view(-1, 3))
        depth = out.density.view(points.shape[:2]) * inside * (t[1] - t[0])
        before = torch.cumsum(depth, 1) - depth
        weights = torch.exp(-before) * (1 - torch.exp(-depth))
        opacity = weights.sum(1, keepdim=True)
        image = (weights[..., None] * out.albedo.view(points.shape)).sum(1) + 1 - opacity
        image, opacity = image.view(*bundle.image_shape, 3), opacity.view(*bundle.image_shape, 1)
        return RenderOutput(image=image, opacity=opacity, depth=opacity, normals=None)


def orbit(views=3, size=48):
    """Cameras around the object."""
    return OrbitCameras(views=views, elevation_deg=15, distance=3.7 * BOUND, fov_deg=36, height=size, width=size)
