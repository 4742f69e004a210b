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

"""Rendering of a grid of voxels: against closed forms, and the native backend against the reference."""

import math

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.ops.backends.cpu.library import library
from nemo_dreamfusion.ops.voxels import interpolate, render_voxels

pytestmark = pytest.mark.unit

LIMITS = dict(bound=1.0, step_size=0.02, raw_range=(-2.0, 2.0), max_samples=400, transmittance_thresh=0.0)


def rays(n):
    origins = torch.nn.functional.normalize(torch.randn(n, 3), dim=-1) * 3
    directions = torch.nn.functional.normalize(torch.randn(n, 3) * 0.5 - origins, dim=-1)
    if n > 4:
        origins[:3], directions[:3] = torch.eye(3) * -3, torch.eye(3)  # along the axes
        directions[3] = -directions[3]  # misses
    return origins, directions


def random_scene(grid=7, cells=12, entries=33):
    return (
        torch.rand(cells, cells, cells) < 0.4,
        torch.randn(grid, grid, grid, 4),
        torch.linspace(0, 0.3, entries) ** 2,
    )


@pytest.mark.parametrize('threshold', [0.0, 0.05])
@pytest.mark.parametrize('max_samples', [5, 400])
def test_native_equals_the_reference(backend, needs_native, threshold, max_samples):
    scene, bundle = random_scene(), rays(300)
    limits = LIMITS | {'transmittance_thresh': threshold, 'max_samples': max_samples}
    results = []
    for name in ('native', 'reference'):
        backend(name)
        results.append(render_voxels(*bundle, *scene, **limits))
    torch.testing.assert_close(*results, atol=2e-5, rtol=1e-4)
    assert results[0][3].abs().max() == 0 and (results[0][:, 3] > 0.1).sum() > 100


@pytest.mark.parametrize('name', ['reference', 'native'])
def test_an_even_fog_lets_the_light_through_that_beer_and_lambert_say(backend, name):
    backend(name)
    opacity = 1 - math.exp(-0.7 * 0.02)  # of a density of 0.7, a sample 0.02 long
    voxels = torch.tensor([0.0, 0.2, 0.4, 0.6]).expand(4, 4, 4, 4).contiguous()
    origins = torch.tensor([[0.0, 0, 3], [3, 0, 0]])
    out = render_voxels(origins, -origins / 3, torch.ones(2, 2, 2).bool(), voxels, torch.full((2,), opacity), **LIMITS)
    light = math.exp(-0.7 * 2)  # through a box two wide
    assert out[:, 3].tolist() == pytest.approx([1 - light] * 2, abs=1e-5)
    assert out[0, :3].tolist() == pytest.approx([share * (1 - light) for share in (0.2, 0.4, 0.6)], abs=1e-5)
    # the mean of t over [0, 2] under the weight 0.7 exp(-0.7 t), in front of which lie 2 units
    mean = (1 - light * (1 + 0.7 * 2)) / 0.7
    assert out[0, 4].item() == pytest.approx(2 * (1 - light) + mean, abs=1e-3)


def test_between_the_corners_of_a_linear_function_lies_the_function():
    ticks = torch.linspace(-1.5, 1.5, 5)
    x, y, z = torch.meshgrid(ticks, ticks, ticks, indexing='ij')
    points = torch.rand(50, 3) * 3 - 1.5
    found = interpolate((2 * x - y + 3 * z)[..., None], points, bound=1.5)[:, 0]
    torch.testing.assert_close(found, points @ torch.tensor([2.0, -1.0, 3.0]), atol=1e-5, rtol=1e-5)


def test_an_empty_grid_shows_nothing(backend, needs_native):
    backend('native')
    _, voxels, table = random_scene()
    assert render_voxels(*rays(50), torch.zeros(6, 6, 6).bool(), voxels, table + 1, **LIMITS).abs().max() == 0


def test_every_instruction_set_renders_the_same(backend, needs_native):
    backend('native')
    scene, bundle = random_scene(), rays(100)
    best, results = library().instruction_set(), []
    try:
        for name in (b'baseline', b'avx2', b'avx512'):
            if library().use_instruction_set(name):
                results.append(render_voxels(*bundle, *scene, **LIMITS))
    finally:
        library().use_instruction_set(best)
    for one in results:
        torch.testing.assert_close(one, results[0], atol=1e-5, rtol=1e-5)


def test_other_shapes_are_refused():
    occupied, voxels, table = random_scene()
    with refusal('voxels', (7, 7, 7, 3), '[V, V, V, 4]'):
        render_voxels(*rays(2), occupied, voxels[..., :3], table, **LIMITS)
    with refusal('opacities', (1,), '[T]'):
        render_voxels(*rays(2), occupied, voxels, table[:1], **LIMITS)
    with refusal('raw_range', (1.0, 1.0), 'two numbers'):
        render_voxels(*rays(2), occupied, voxels, table, **LIMITS | {'raw_range': (1.0, 1.0)})
