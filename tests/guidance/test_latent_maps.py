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

"""What stands for a latent in the latent phase."""

from __future__ import annotations

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.modules.guidance import latent_maps
from nemo_dreamfusion.parts.types import RenderOutput


def test_an_affine_encoder_is_recovered_exactly():
    matrix, offset = torch.randn(4, 3), torch.randn(4)

    def encode(image):
        pooled = latent_maps.resize(image.permute(0, 3, 1, 2), image.shape[1] // 4) * 2 - 1
        return torch.einsum('ck,bkhw->bchw', matrix, pooled) + offset[None, :, None, None]

    fitted = latent_maps.fit_linear_map(encode, 32, 4, 'cpu')
    torch.testing.assert_close(fitted.matrix, matrix, atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted.offset, offset, atol=1e-4, rtol=0)
    assert (fitted.r2 > 0.9999).all()
    image = torch.rand(2, 32, 32, 3)
    torch.testing.assert_close(fitted(image, 8), encode(image), atol=1e-4, rtol=0)


def test_calibration_images_are_the_same_every_time_and_look_like_renders():
    images = latent_maps.calibration_images(4, 32)
    assert torch.equal(images, latent_maps.calibration_images(4, 32))
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(images[:, 0, 0], images[:, 0, -1])  # corners show the background


def test_normal_opacity_of_a_facing_wall_and_of_nothing():
    normals, opacity = torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, 1)
    normals[:, :, :4, 2], opacity[:, :, :4] = 1.0, 1.0
    render = RenderOutput(image=torch.zeros(1, 8, 8, 3), opacity=opacity, depth=opacity, normals=normals)
    latents = latent_maps.normal_opacity_latents(render, 4)
    assert latents.shape == (1, 4, 4, 4)
    assert latents[0, :, 0, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert latents[0, :, 0, 3].tolist() == [-1.0, -1.0, -1.0, -1.0]


def test_normal_opacity_without_normals_names_the_option(render_of):
    with refusal('model.guidance.latents.latent_map', 'normal_opacity', 'model.guidance.latents.latent_map=linear'):
        latent_maps.normal_opacity_latents(render_of(1, 8, normals=False), 4)


@pytest.mark.parametrize(('side', 'size'), [(8, 8), (8, 4), (9, 4), (4, 8)])
def test_resize_keeps_flat_colours_and_the_mean(side, size):
    flat = torch.full((1, 3, side, side), 0.3)
    torch.testing.assert_close(latent_maps.resize(flat, size), torch.full((1, 3, size, size), 0.3))
