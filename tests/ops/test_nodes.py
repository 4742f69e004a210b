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

"""Pictures between their nodes: the native backend against the reference, and what is refused."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.ops.nodes import between_nodes, node_places

pytestmark = pytest.mark.unit


def nodes_of(height, width, stride, channels=5):
    """Return smooth nodes with a step in one corner."""
    y, x = torch.meshgrid(node_places(height, stride).float(), node_places(width, stride).float(), indexing='ij')
    smooth = torch.stack([torch.sin(x / 40 + c) * torch.cos(y / 30) for c in range(channels)], -1)
    return smooth + ((x > 0.7 * width) & (y < 0.4 * height))[..., None]


@pytest.mark.parametrize(('height', 'width', 'stride'), [(64, 64, 3), (61, 50, 3), (41, 90, 4), (5, 6, 2)])
def test_native_equals_the_reference(backend, needs_native, height, width, stride):
    nodes, tolerance, found = nodes_of(height, width, stride), torch.linspace(0.01, 0.05, 5), []
    for name in ('native', 'reference'):
        backend(name)
        found.append(between_nodes(nodes, height, width, stride=stride, tolerance=tolerance))
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-6, rtol=1e-6)
    assert len(found[0][1]) > 0 and torch.equal(found[0][1].sort().values, found[1][1].sort().values)


def test_a_smooth_picture_misses_nothing():
    rows, columns = node_places(22, 3), node_places(31, 3)
    plane = (2 * rows[:, None] - columns).float()[..., None]
    values, missing = between_nodes(plane, 22, 31, stride=3, tolerance=torch.tensor([0.1]))
    wanted = 2 * torch.arange(22)[:, None] - torch.arange(31)
    torch.testing.assert_close(values.view(22, 31), wanted.float(), atol=1e-4, rtol=1e-5)
    assert len(missing) == 0


def test_refuses_nodes_of_another_picture():
    with refusal('nodes', (7, 11, 1), '[8, 11]'):
        between_nodes(torch.zeros(7, 11, 1), 20, 31, stride=3, tolerance=torch.ones(1))
