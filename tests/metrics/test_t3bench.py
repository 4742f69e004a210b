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

"""T3Bench's quality: the icosphere, the smoothing, the cameras and the pictures of a mesh of known colours."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from refusals import refusal
from small_clip import BrightnessScorer
from small_model import small_config

from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.metrics import t3bench
from nemo_dreamfusion.metrics.base import OVERVIEW
from nemo_dreamfusion.metrics.icosphere import make_icosphere, smooth
from nemo_dreamfusion.metrics.t3bench import T3BenchQuality, centre
from nemo_dreamfusion.models.dreamfusion import DreamFusion


def make_metric(**options):
    return T3BenchQuality(
        scorer=BrightnessScorer(), subdivisions=0, size=32, mesh_resolution=24, device='cpu', **options
    )


def test_the_icosphere_is_that_of_trimesh_up_to_a_turn():
    sphere, other = make_icosphere(2), trimesh.creation.icosphere(subdivisions=2)
    assert len(sphere.vertices) == 162 and np.allclose(np.linalg.norm(sphere.vertices, axis=1), 1)
    assert sorted(map(len, sphere.neighbours)) == sorted(map(len, other.vertex_neighbors)) == [5] * 12 + [6] * 150
    ours, theirs = (np.sort((one @ one.T).flatten()) for one in (sphere.vertices, other.vertices))
    assert np.allclose(ours, theirs)  # all angles between vertices, which no turn changes
    assert all(i in sphere.neighbours[j] for i, near in enumerate(sphere.neighbours) for j in near)


def test_smoothing_takes_the_mean_with_the_neighbours():
    sphere = make_icosphere(0)  # 12 vertices with five neighbours each
    assert smooth(np.full(12, 0.25), sphere, 3) == pytest.approx(np.full(12, 0.25))
    one = np.zeros(12)
    one[0] = 6.0
    once = smooth(one, sphere, 1)
    assert once[0] == 1 and [once[i] for i in sphere.neighbours[0]] == [1] * 5 and once.sum() == pytest.approx(6)
    assert smooth(one, sphere, 2)[0] == pytest.approx((1 + 5 * 1) / 6)


def test_a_mesh_is_centred_by_its_vertices():
    corners = np.array([[0, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 2]], np.float32)
    centred = centre(Mesh(corners, np.zeros((0, 3), np.int64), np.ones((4, 3)))).vertices
    assert centred == pytest.approx((corners - [1, 0.5, 0.5]) / 3)


@pytest.fixture
def two_coloured(monkeypatch):
    """A ball: red above, green below; and brighter the farther from it nothing is."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    colors = np.where(ball.vertices[:, 1:2] > 0, [[1.0, 0, 0]], [[0, 1.0, 0]])
    mesh = Mesh(ball.vertices.astype(np.float32), np.asarray(ball.faces, np.int64), colors)
    monkeypatch.setattr(t3bench, 'colored_surface', lambda model, resolution: mesh)
    return SimpleNamespace(to=lambda device: None)


def test_each_camera_sees_its_side_from_where_the_icosphere_has_it(two_coloured, tmp_path):
    metric = make_metric()
    record = metric.render(two_coloured, tmp_path)
    assert len(record['views']) == 12 * 5 and record['faces'] == 1280 and (tmp_path / OVERVIEW).is_file()
    for view in record['views']:
        image = np.asarray(Image.open(tmp_path / view['file'])).astype(float) / 255
        up = metric.sphere.vertices[view['vertex']][2]  # the sphere's z is our y
        if abs(up) > 0.6:
            assert image[16, 16] == pytest.approx([1.0 * (up > 0), 1.0 * (up < 0), 0], abs=0.02)
        if view['fov_deg'] == 60:
            assert image[0, 0].tolist() == [0, 0, 0]
    # the ball reaches to 1, seen from 2.2: it fills an angle of 2 asin(1 / 2.2) = 54 degrees, nearly the widest picture
    seen = (np.asarray(Image.open(tmp_path / '000_0.png')).sum(-1) > 127).mean()
    radius = np.tan(np.arcsin(1 / 2.2)) / np.tan(np.deg2rad(30))  # in half sides
    assert seen == pytest.approx(np.pi * radius**2 / 4, rel=0.04)


def test_the_best_vertex_counts_by_its_best_picture(tmp_path):
    metric = make_metric()
    views = []
    for vertex in range(12):
        for number, level in enumerate([0, 51, 102, 51, 0]):
            file = f'{vertex:03d}_{number}.png'
            Image.new('RGB', (4, 4), (level + 102 * (vertex == 3),) * 3).save(tmp_path / file)
            views.append({'file': file, 'vertex': vertex})
    judged = metric.score('a ball', tmp_path, {'views': views, 'faces': 1})
    # scores 0.4, of vertex 3 0.8; vertex and neighbours take the mean three times
    first, second = (0.8 + 5 * 0.4) / 6, 0.4
    rest = [first, second]
    weights = smooth(np.eye(12)[3], metric.sphere, 3)
    best = 0.4 + 0.4 * weights.max()
    assert judged.values['best'] == pytest.approx(best) and rest[0] > best > rest[1]
    assert judged.values['quality'] == pytest.approx(20 * best + 50)
    assert judged.values['mean'] == pytest.approx(0.4 + 0.4 / 12)


def test_a_field_and_an_empty_field(tmp_path):
    metric = make_metric()
    model = DreamFusion(small_config('model.prompt=a ball').model)
    record = metric.render(model, tmp_path)
    scored = metric.score('a ball', tmp_path, record)
    assert record['faces'] > 100 and scored.values['mean'] > 0.05
    with torch.no_grad():
        model.nerf.sigma_net[-1].bias.fill_(-50)  # nothing is there
    record = metric.render(model, tmp_path)
    scored = metric.score('a ball', tmp_path, record)
    assert record['faces'] == 0 and scored.values['best'] == 0 and scored.remark == 'no surface'


def test_options_out_of_range():
    for option, value, way_out in (('subdivisions', 5, 'at most 4'), ('size', 0, 'at least 16')):
        with refusal(f'metric.{option}', value, way_out):
            T3BenchQuality(scorer=BrightnessScorer(), **{option: value})
