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

"""Stills: bytes, labels and strips."""

import numpy as np
import pytest
import torch
from PIL import Image

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.stills import draw_strip, label_view, save_still, save_strip, to_uint8


def test_values_outside_of_the_range_are_clipped_and_do_not_wrap():
    values = torch.tensor([1.05, 1.0, 0.5, 0.0, -0.05, float('nan'), float('inf')])
    assert to_uint8(values).tolist() == [255, 255, 128, 0, 0, 0, 255]
    assert to_uint8(np.float64([0.2])).tolist() == [51]


def test_a_picture_upside_down_is_a_view():
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(to_uint8(image[::-1]), to_uint8(image)[::-1])


def test_every_byte_comes_back():
    values = torch.arange(256) / 255
    assert to_uint8(values).tolist() == list(range(256))


@pytest.mark.parametrize(
    ('azimuth', 'elevation', 'label'),
    [
        (0, 15, 'front 0°'),
        (-0.0, 15, 'front 0°'),
        (45, 15, 'front right 45°'),
        (-45, 15, 'front left -45°'),
        (135, 15, 'back right 135°'),
        (120, 15, '120°'),
        (90, 15, 'side 90°'),
        (-90, 15, 'side -90°'),
        (-180, 15, 'back 180°'),
        (180, 15, 'back 180°'),
        (-135.0001, 15, 'back left -135°'),
        (0, 75, 'overhead 0°'),
    ],
)
def test_view_labels(azimuth, elevation, label):
    assert label_view(azimuth, elevation) == label


def test_strip_holds_the_views_in_order(tmp_path):
    cameras = OrbitCameras(views=8, elevation_deg=15, distance=3, fov_deg=36, height=128, width=128).all()
    images = (torch.arange(8) / 15).view(8, 1, 1, 1).expand(8, 128, 128, 3)
    picture = np.asarray(Image.open(save_strip(images, cameras, tmp_path / 'preview.png')))
    assert picture.shape[1] == 8 * 128 and picture.shape[0] > 128
    for i in range(8):
        assert (picture[:128, i * 128 : (i + 1) * 128] == 17 * i).all()
        label = picture[128:, i * 128 : (i + 1) * 128]
        assert label.min() < 100 and label.max() == 255  # ink on white
        assert label[:, :4].min() == label[:, -4:].min() == 255  # and none of it near its neighbours


def test_small_views_are_enlarged_for_their_labels():
    assert draw_strip(np.zeros((2, 32, 32, 3), np.uint8), ['front 0°', 'back 180°']).size[0] == 2 * 128


def test_still_is_lossless(tmp_path):
    image = torch.rand(5, 7, 3)
    read = np.asarray(Image.open(save_still(image, tmp_path / 'deep' / 'view.png')))
    np.testing.assert_array_equal(read, to_uint8(image))
