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

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from nemo_dreamfusion.pocket.metrics import DISTANCE, VIEWS_DEG
from nemo_dreamfusion.pocket.world import prompts as world
from nemo_dreamfusion.pocket.world.objects import MAIN, OBJECTS, PARTS, WITH_FRONT
from nemo_dreamfusion.pocket.world.objects.solids import slanted_bar
from nemo_dreamfusion.pocket.world.render import look_at_origin, render
from nemo_dreamfusion.pocket.world.sdf import Scene

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


def published_digest() -> str:
    """Return a digest of the solids of the first 14 objects, parts aside."""
    fields = ('kind', 'center', 'size', 'color', 'axis', 'rounding')
    names = list(OBJECTS)[:14]
    solids = {name: [[getattr(p, field) for field in fields] for p in OBJECTS[name]()] for name in names}
    numbers = json.loads(json.dumps(solids), parse_int=float, parse_float=lambda text: round(float(text), 6) + 0.0)
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]


def test_solids_of_published_prompts_stay():
    """Weights were trained, and metrics published, on these very scenes."""
    assert published_digest() == '244984f1490d9a68'


@pytest.mark.parametrize('name', OBJECTS)
def test_object_lies_in_the_unit_ball(name):
    """The distances of the solids themselves; the scene's is cut off by the ball. Old objects may lose a corner."""
    generator = torch.Generator().manual_seed(0)
    sphere = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    nearest = Scene(OBJECTS[name]()).distances(sphere).min()
    assert nearest > (-0.05 if name in ('table', 'chair', 'house', 'cake') else 0)


@pytest.mark.parametrize('name', OBJECTS)
def test_object_is_centred_and_fills_the_ball(name):
    points = torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    inside = points[Scene(OBJECTS[name]()).distances(points).amin(0) < 0]
    assert inside.norm(dim=-1).max() > 0.75
    assert ((inside.amin(0) + inside.amax(0)) / 2).abs().max() < 0.16


def test_parts_are_the_tags():
    for name, build in OBJECTS.items():
        tags = {p.part for p in build()}
        assert MAIN in tags
        assert tags - {'', MAIN} == {PARTS[name]} if name in PARTS else tags <= {'', MAIN}
    assert PARTS['house'] == 'roof' and PARTS['cup'] == 'handle' and 'key' not in PARTS


@pytest.mark.parametrize('name', OBJECTS)
def test_every_part_is_seen(name):
    """Paint each part in a colour of its own: it shows in a view of the metric."""
    codes = {MAIN: (1.0, 0.0, 0.0), PARTS.get(name): (0.0, 0.0, 1.0)}
    solids = [replace(p, color=codes.get(p.part, (0.0, 1.0, 0.0))) for p in OBJECTS[name]()]
    angles = torch.tensor(VIEWS_DEG, dtype=torch.float32)[[0, 2, 4, 8]]
    poses = look_at_origin(*angles.T, torch.full((4,), DISTANCE))
    image = render(Scene(solids), poses, size=32, samples=1).image
    for code in (codes[part] for part in (MAIN, PARTS.get(name)) if part):
        assert (image == torch.tensor(code)).all(-1).sum((1, 2)).max() >= 8


@pytest.mark.parametrize('name', WITH_FRONT)
def test_front_side_and_back_differ(name):
    angles = (torch.tensor(values) for values in ([0.0, 90.0, 180.0], [15.0] * 3, [3.2] * 3))
    front, side, back = render(Scene(OBJECTS[name]()), look_at_origin(*angles), size=48, samples=1, ambient=0.6).image
    for one, other in ((front, back), (front, side), (side, back)):
        assert (one - other).square().mean() > 0.004


def test_objects_with_a_front_are_named_once():
    assert len(WITH_FRONT) >= 10 and set(WITH_FRONT) <= set(OBJECTS) and len(set(WITH_FRONT)) == len(WITH_FRONT)


def test_stairs_rise_toward_minus_z():
    steps = sorted((p for p in OBJECTS['stairs']() if p.part == 'steps'), key=lambda p: p.center[1])
    assert [p.center[2] for p in steps] == sorted((p.center[2] for p in steps), reverse=True)
    assert len(steps) == 5


def test_bar_reaches_from_end_to_end():
    bar = slanted_bar((0.0, 0.0, 0.0), (0.0, 0.3, 0.4), 0.1, (1.0, 0.0, 0.0), 'main')
    assert bar[0].center == (0, 0, 0) and bar[-1].center == pytest.approx((0, 0.3, 0.4))
    line = torch.lerp(torch.zeros(3), torch.tensor([0.0, 0.3, 0.4]), torch.linspace(0, 1, 50)[:, None])
    beside = line + torch.tensor([0.085, 0.0, 0.0])
    assert Scene(bar).signed_distance(beside).max() < 0  # the waists between the balls are shallow
