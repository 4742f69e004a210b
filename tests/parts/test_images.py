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

"""Measures of two sets of images, with answers known by hand."""

import pytest
import torch

from nemo_dreamfusion.parts.images import compute_psnr, compute_silhouette_iou

pytestmark = pytest.mark.unit


def test_psnr_is_that_of_the_mean_squared_error_in_the_span():
    images = torch.zeros(2, 3, 4, 4)
    assert compute_psnr(images, images + 0.1) == pytest.approx(20, abs=1e-4)
    assert compute_psnr(images, images + 0.2, span=2.0) == pytest.approx(20, abs=1e-4)
    assert compute_psnr(images, images) == pytest.approx(100)


def test_iou_is_intersection_over_union_of_what_is_more_than_half_opaque_mean_over_the_views():
    a, b = torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.4)
    a[0, :2], b[0, :, :2] = 1, 0.6
    a[1], b[1] = 1, 1
    assert compute_silhouette_iou(a, b) == pytest.approx((4 / 12 + 1 + 1) / 3)  # the third: both are empty
