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

"""Convolutions whose weights oneDNN keeps: the numbers of torch's own, forward and backward."""

import copy
import io

import pytest
import torch
from torch import nn

from nemo_dreamfusion.modules.guidance.networks.packing import PackedConv2d, _can_pack, pack_convolutions

pytestmark = pytest.mark.skipif(not _can_pack(), reason='this build of torch packs no convolutions')

GEOMETRIES = [
    {'kernel_size': 3, 'padding': 1},
    {'kernel_size': 1},
    {'kernel_size': 3, 'stride': 2, 'padding': 1},
    {'kernel_size': 3, 'stride': 2},  # the VAE's way to shrink
    {'kernel_size': 1, 'padding': 1},  # no convolution gives its gradient
    {'kernel_size': 3, 'padding': 2, 'dilation': 2},
]


@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('bias', [True, False])
def test_values_and_gradients_are_those_of_the_layer_as_it_was(geometry, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 10, bias=bias, **geometry).requires_grad_(False)
    packed = nn.Sequential(copy.deepcopy(plain))
    pack_convolutions(packed)
    assert isinstance(packed[0], PackedConv2d)
    for size in ((2, 6, 9, 9), (1, 6, 12, 8)):  # a second size after the first
        image = torch.randn(size, requires_grad=True)
        expected, found = plain(image), packed(image)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(packed(image), expected, rtol=1e-5, atol=1e-5)
        grad = torch.randn_like(expected)
        gradients = (torch.autograd.grad(out, image, grad)[0] for out in (found, expected))
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_what_is_trained_or_in_half_precision_stays_as_it_is():
    for layer in (nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3).half().requires_grad_(False)):
        pack_convolutions(nn.Sequential(layer))
        assert type(layer) is nn.Conv2d


def test_a_network_that_ran_is_copied_and_saved():
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).requires_grad_(False)
    pack_convolutions(network)
    image = torch.randn(1, 3, 8, 8)
    expected = network(image)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for again in (copy.deepcopy(network), torch.load(file, weights_only=False)):
        assert type(again[0]) is PackedConv2d and torch.equal(again(image), expected)
