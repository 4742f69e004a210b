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

"""Surfaces whose distances are known: spheres of two radii, a shifted cube, a plate against its half."""

import numpy as np
import pytest
import torch
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.pocket.metrics.geometry import (
    SurfacePoints,
    compare_surfaces,
    empty_scores,
    sample_mesh,
    sample_scene,
)
from nemo_dreamfusion.pocket.world.prompts import build_scene
from nemo_dreamfusion.pocket.world.sdf import Primitive, Scene

pytestmark = pytest.mark.unit

COUNT = 20_000
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
PLATE = np.array([[0, 1, 2], [0, 2, 3]])


def ball(radius, seed=0):
    return sample_scene(Scene([Primitive('ellipsoid', (0, 0, 0), (radius,) * 3, (1, 1, 1))]), COUNT, seed)


def test_points_of_a_scene_lie_on_it_evenly():
    size = (0.7, 0.2, 0.4)
    box = Scene([Primitive('box', (0, 0, 0), size, (1, 1, 1))])
    points = sample_scene(box, COUNT)
    assert box.signed_distance(torch.from_numpy(points.positions).float()).abs().max() < 1e-5
    x, y, z = size
    area = np.array([y * z, x * z, x * y])  # of the pairs of faces across x, y and z
    share = (np.abs(points.normals) > 0.99).mean(0)
    assert share == pytest.approx(area / area.sum(), abs=0.015)  # four standard deviations


def test_two_spheres_are_as_far_as_their_radii():
    scores = compare_surfaces(ball(0.7), ball(0.73, seed=1))
    beside = (
        4 * 0.715**2 / COUNT
    )  # mean square distance to the nearest of random points along the surface, 1 / (pi density)
    assert scores['chamfer'] == pytest.approx(0.03 + beside / (2 * 0.03), abs=3e-4)
    assert scores['f_score_1'] == 0 and scores['f_score_2'] == pytest.approx(1, abs=0.02)  # 0.02 < 0.03 < 0.04
    assert scores['normal_consistency'] == pytest.approx(1, abs=1e-3)


def test_equal_surfaces_agree():
    torus = build_scene('a red torus')
    scores = compare_surfaces(sample_scene(torus, COUNT), sample_scene(torus, COUNT, seed=1))
    assert scores['f_score_1'] > 0.98 and scores['chamfer'] < 0.01 and scores['normal_consistency'] > 0.99


def test_half_a_plate_has_full_precision_and_half_the_recall():
    whole, half = sample_mesh(CORNERS, PLATE, COUNT), sample_mesh(CORNERS * [0.5, 1, 1], PLATE, COUNT, seed=1)
    scores = compare_surfaces(half, whole)
    recall = 0.5 + 0.02  # what lies within 0.02 of the half is found too
    assert scores['f_score_1'] == pytest.approx(2 * recall / (1 + recall), abs=0.01)
    assert scores['chamfer'] == pytest.approx(
        (0 + 0.5 * 0.25) / 2, abs=0.005
    )  # the other half is 0.25 away on average


def test_a_shifted_cube():
    cube = [Primitive('box', (0, 0, 0), (0.4, 0.4, 0.4), (1, 1, 1))]
    moved = [one.translate((0.1, 0, 0)) for one in cube]
    scores = compare_surfaces(sample_scene(Scene(cube), COUNT), sample_scene(Scene(moved), COUNT, seed=1))
    # the faces across x, a third of the area, are 0.1 away; the others slide along themselves, but for a strip of 0.1
    strip = 4 / 6 * 0.1 / 0.8 * 0.05
    assert scores['chamfer'] == pytest.approx(0.1 / 3 + strip, abs=0.008)


def test_crossed_planes_have_no_common_normal():
    generator = np.random.default_rng(0)
    flat = generator.random((500, 3))
    up, aside = (np.tile(normal, (500, 1)) for normal in ((0.0, 0, 1), (1.0, 0, 0)))
    scores = compare_surfaces(SurfacePoints(flat, up), SurfacePoints(flat, aside))
    assert scores['normal_consistency'] == 0 and scores['chamfer'] == 0
    assert compare_surfaces(SurfacePoints(flat, up), SurfacePoints(flat, -up))['normal_consistency'] == 1


def test_draws_are_those_of_the_seed():
    assert (ball(0.5).positions == ball(0.5).positions).all()
    assert not (ball(0.5).positions == ball(0.5, seed=1).positions).all()
    assert (sample_mesh(CORNERS, PLATE, 5).positions == sample_mesh(CORNERS, PLATE, 5).positions).all()


def test_nothing_scores_worst():
    assert empty_scores() == {'f_score_1': 0, 'f_score_2': 0, 'chamfer': 2, 'normal_consistency': 0}
    with refusal('mesh', NO_VALUE, 'triangle'):
        sample_mesh(CORNERS, np.array([[0, 0, 1]]))
