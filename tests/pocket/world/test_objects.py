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

"""The named objects as they look."""

import pytest
import torch

from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.render import look_at_origin, render

pytestmark = pytest.mark.unit


def front_view(prompt: str, azimuth_deg: float = 0.0, elevation_deg: float = 0.0, size: int = 48):
    angles = (torch.tensor([float(value)]) for value in (azimuth_deg, elevation_deg, 3.2))
    return render(world.build_scene(prompt), look_at_origin(*angles), size=size)


def test_duck_looks_to_plus_z():
    """The orange beak: toward the camera from the front, on the left seen from +x, hidden from behind."""

    def orange(image):
        return (image[..., 0] > 0.9) & (image[..., 1] < 0.55) & (image[..., 2] < 0.2)

    upper = slice(0, 30)  # the feet are orange too
    side = orange(front_view('a duck', 90).image[0, upper])
    assert side[:, :24].sum() > 10 and side[:, 24:].sum() == 0
    assert orange(front_view('a duck', 0).image[0, upper]).sum() > 10
    assert orange(front_view('a duck', 180).image[0, upper]).sum() == 0


def test_hamburger_has_its_layers_in_order():
    column = front_view('a hamburger', 20, 0, 96).image[0, :, 48]
    bun, lettuce, cheese, patty = (0.86, 0.53, 0.2), (0.25, 0.66, 0.12), (1.0, 0.84, 0.1), (0.3, 0.13, 0.06)
    names = {'bun': bun, 'lettuce': lettuce, 'cheese': cheese, 'patty': patty}
    seen = []
    for pixel in column:
        name = next((n for n, c in names.items() if (pixel - torch.tensor(c)).abs().max() < 0.02), None)
        if name and (not seen or seen[-1] != name):
            seen.append(name)
    assert seen == ['bun', 'lettuce', 'cheese', 'patty', 'bun']
