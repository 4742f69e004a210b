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

"""Pictures from fewer rays: smooth ones need few, edges are as sharp as from all."""

import pytest
import torch

from nemo_dreamfusion.modules.renderers.sparse_pixels import sample_pixels

pytestmark = pytest.mark.unit


class Picture:
    """A picture [H, W, C] that counts how many of its pixels are asked for."""

    def __init__(self, values):
        self.values, self.asked = values, 0

    def __call__(self, pixels):
        self.asked += len(pixels)
        return self.values.flatten(0, 1)[pixels]

    def sample(self, stride, tolerance):
        height, width = self.values.shape[:2]
        limits = torch.full((self.values.shape[2],), tolerance)
        return sample_pixels(self, height, width, stride=stride, tolerance=limits).view_as(self.values)


def grid(height, width):
    return torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing='ij')


def test_a_bilinear_picture_needs_the_nodes_alone():
    y, x = grid(41, 33)
    picture = Picture(torch.stack([2 * x + 3 * y, x * y], -1))
    assert torch.allclose(picture.sample(4, 0.01), picture.values, atol=1e-3)
    assert picture.asked == 11 * 9


@pytest.mark.parametrize(('height', 'width'), [(40, 40), (37, 50), (9, 64)])
def test_the_pixels_of_an_edge_are_all_asked(height, width):
    y, x = grid(height, width)
    inside = ((x - width / 2).square() + (y - height / 2).square()) < (height / 3) ** 2
    picture = Picture(inside[..., None].float())
    assert torch.equal(picture.sample(3, 0.01), picture.values)


def test_a_smooth_picture_is_within_the_tolerance():
    y, x = grid(96, 96)
    blob = torch.exp(-((x - 50).square() + (y - 40).square()) / (2 * 12**2))
    errors = []
    for tolerance in (0.01, 0.002):
        picture = Picture(blob[..., None])
        errors.append((picture.sample(3, tolerance) - picture.values).abs().max().item())
        assert errors[-1] < tolerance and picture.asked < 96 * 96 / 2
    assert errors[1] < errors[0]


@pytest.mark.parametrize(('side', 'stride'), [(24, 1), (6, 3), (1, 4)])
def test_small_pictures_are_asked_whole(side, stride):
    picture = Picture(torch.rand(side, side, 5))
    assert torch.equal(picture.sample(stride, 0.5), picture.values)
    assert picture.asked == side * side
