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

"""Straight alpha, normals from depth and light from another side, against a ball; animated WebP and GIF."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refusal

from nemo_dreamfusion.data.cameras import cameras_from_orbit, rays
from nemo_dreamfusion.export.animation import save_animation
from nemo_dreamfusion.export.layers import straight_alpha, surface_normals
from nemo_dreamfusion.parts.types import RenderOutput

pytestmark = pytest.mark.unit
RADIUS, SIZE = 0.6, 96


def test_over_its_background_the_layer_is_the_render_again():
    generator = torch.Generator().manual_seed(0)
    color, background = torch.rand(2, 1, 8, 8, 3, generator=generator)
    opacity = torch.linspace(0, 1, 64).view(1, 8, 8, 1)
    render = RenderOutput(color * opacity + background * (1 - opacity), opacity, opacity, None)
    layer = straight_alpha(render, background)
    over = layer[..., :3] * layer[..., 3:] + background * (1 - layer[..., 3:])
    assert (over - render.image).abs().max() < 1 / 255
    solid = opacity[..., 0] > 0.1
    assert torch.allclose(layer[..., :3][solid], color[solid], atol=1e-4)


@pytest.mark.parametrize('azimuth_deg', [0.0, 120.0])
def test_normals_of_a_ball_point_away_from_its_middle(azimuth_deg):
    values = (torch.tensor([value]) for value in (azimuth_deg, 25.0, 3.5, 36.0))
    bundle = rays(cameras_from_orbit(*values, SIZE, SIZE))
    along = (bundle.origins * bundle.directions).sum(-1, keepdim=True)
    square = RADIUS**2 - (bundle.origins - along * bundle.directions).square().sum(-1, keepdim=True)
    hit = (square > 0).float()
    depth = (-along - square.clamp(min=0).sqrt()) * hit
    noise = 0.004 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0))
    view = (1, SIZE, SIZE)
    render = RenderOutput(torch.zeros(*view, 3), hit.view(*view, 1), (depth + noise * hit).view(*view, 1), None)
    found = surface_normals(render, bundle).view(-1, 3)
    true = torch.nn.functional.normalize(bundle.origins + depth * bundle.directions, dim=-1)
    inner = square[:, 0] > 0.3 * RADIUS**2  # not at the silhouette
    assert inner.sum() > 500
    angle_deg = torch.rad2deg((found * true).sum(-1)[inner].clamp(-1, 1).acos())
    assert angle_deg.mean() < 8 and angle_deg.max() < 25


@pytest.mark.parametrize(('suffix', 'tolerance'), [('webp', 3), ('gif', 1)])
def test_an_animation_repeats_and_is_no_larger_than_asked_for(tmp_path, suffix, tolerance):
    images = [np.full((40, 80, 3), value, np.float32) for value in (0.0, 0.5, 1.0)]
    turn = Image.open(save_animation(iter(images), tmp_path / f'a.{suffix}', fps=10, side=32))
    assert (turn.n_frames, turn.size, turn.info['loop']) == (3, (32, 16), 0)
    for index, value in enumerate((0, 128, 255)):
        turn.seek(index)
        assert np.abs(np.asarray(turn.convert('RGB')).astype(int) - value).max() <= tolerance


def test_colours_of_a_gif_stay_while_the_object_turns(tmp_path):
    still = np.zeros((32, 32, 3), np.float32)
    still[:, :16] = [0.3, 0.6, 0.2]
    images = [still.copy() for _ in range(12)]
    for i, image in enumerate(images):
        image[:, 16:] = np.random.default_rng(i).random((32, 16, 3))  # would take all colours of its own palette
    turn = Image.open(save_animation(images, tmp_path / 'a.gif'))
    left = []
    for i in range(12):
        turn.seek(i)
        left.append(np.asarray(turn.convert('RGB'))[8, 4])
    assert np.ptp(left, axis=0).max() == 0 and np.abs(left[0] - np.array([76, 153, 51])).max() < 12


def test_another_suffix_of_an_animation_is_refused(tmp_path):
    with refusal('the path of an animation', str(tmp_path / 'a.apng'), '.webp or .gif'):
        save_animation([np.zeros((2, 2, 3))], tmp_path / 'a.apng')


def test_an_animation_of_nothing_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='at least one'):
        save_animation([], tmp_path / 'a.webp')
    assert list(tmp_path.iterdir()) == []
