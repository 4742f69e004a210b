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

"""CIEDE2000 against the pairs that its authors publish and against scikit-image; Lab against CIE's own values."""

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab

from nemo_dreamfusion.pocket.metrics.colors import compute_color_difference, delta_e_2000, linear_rgb_to_lab

pytestmark = pytest.mark.unit

# Sharma, Wu and Dalal (2005), table 1: L a b, L a b, difference
PAIRS = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0009, -2.49), 4.8045),
    ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(('lab', 'other', 'difference'), PAIRS)
def test_published_pairs(lab, other, difference):
    assert delta_e_2000(np.array(lab), np.array(other)) == pytest.approx(difference, abs=5e-5)
    assert delta_e_2000(np.array(other), np.array(lab)) == pytest.approx(difference, abs=5e-5)


def test_random_pairs_agree_with_scikit_image():
    generator = np.random.default_rng(0)
    lab, other = generator.uniform((0, -100, -100), (100, 100, 100), (2, 2000, 3))
    assert delta_e_2000(lab, other) == pytest.approx(deltaE_ciede2000(lab, other), abs=1e-9)


def test_lab_of_linear_light_agrees_with_scikit_image():
    linear = np.random.default_rng(0).random((500, 3))
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert linear_rgb_to_lab(linear) == pytest.approx(rgb2lab(encoded), abs=0.02)  # its white has four digits


def test_only_pixels_that_both_fill_count():
    red, blue = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.8])
    images, truth = torch.ones(2, 2, 2, 3), torch.ones(2, 2, 2, 3)
    opacity, true_opacity = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    assert compute_color_difference(images, opacity, truth, true_opacity) is None
    images[0, 0], truth[0, 0, 0], opacity[0, 0], true_opacity[0, 0, 0] = red, red, 1, 1
    assert compute_color_difference(images, opacity, truth, true_opacity) == pytest.approx(0, abs=1e-6)
    images[1, 1, 1], truth[1, 1, 1], opacity[1, 1, 1], true_opacity[1, 1, 1] = red, blue, 1, 1
    expected = (
        delta_e_2000(linear_rgb_to_lab(red.numpy()), linear_rgb_to_lab(blue.numpy())) / 2
    )  # the mean of two views
    assert compute_color_difference(images, opacity, truth, true_opacity) == pytest.approx(expected, abs=1e-4)


def test_white_that_shines_through_is_removed():
    red, alpha = torch.tensor([0.8, 0.1, 0.1]), torch.full((1, 1, 1), 0.95)
    thin = (0.95 * red + 0.05).expand(1, 1, 1, 3)
    found = compute_color_difference(thin, alpha, red.expand(1, 1, 1, 3), torch.ones(1, 1, 1))
    assert found == pytest.approx(0, abs=1e-3)
