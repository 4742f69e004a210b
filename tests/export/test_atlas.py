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

"""Atlases: by xatlas in a process that can hang or die, and by the grid that cannot."""

import os
import time

import numpy as np
import pytest
import trimesh
from meshes import texels_of_each

from nemo_dreamfusion.export.atlas import make_atlas, triangle_atlas
from nemo_dreamfusion.export.decimate import decimate, is_closed
from nemo_dreamfusion.export.geometry import smooth_normals, weld
from nemo_dreamfusion.export.unwrap import UnwrapError, unwrap, uv_use

# A package in the place of xatlas that hangs, dies or raises when it is given more than so many triangles
BROKEN = """
import os, signal, sys, time
sys.path.remove(os.path.dirname(__file__))
del sys.modules['xatlas']
import xatlas as real
from xatlas import PackOptions, ChartOptions
class Atlas:
    def __init__(self):
        self.atlas, self.count = real.Atlas(), 0
    def add_mesh(self, vertices, faces):
        self.count += len(faces)
        self.atlas.add_mesh(vertices, faces)
    def generate(self, *options):
        if self.count > {most}:
            open({note!r}, 'w').write(str(os.getpid()))
            {act}
        self.atlas.generate(*options)
    def __getitem__(self, i):
        return self.atlas[i]
sys.modules['xatlas'] = sys.modules[real.__name__] = type(sys)('xatlas')
sys.modules['xatlas'].__dict__.update(Atlas=Atlas, PackOptions=PackOptions, ChartOptions=ChartOptions)
"""
ACTS = {
    'hang': 'time.sleep(600)',
    'die': 'os.kill(os.getpid(), signal.SIGSEGV)',
    'raise': "raise RuntimeError('no charts')",
}


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Puts a broken xatlas in front of the real one for child processes; returns the file that holds its process id."""

    def put(act, most=0):
        note = tmp_path / 'pid'
        (tmp_path / 'xatlas.py').write_text(BROKEN.format(act=ACTS[act], most=most, note=str(note)))
        monkeypatch.setenv('PYTHONPATH', str(tmp_path))
        return note

    return put


@pytest.fixture(scope='module')
def sphere():
    shape = trimesh.creation.icosphere(4, 1.0)
    return shape.vertices.astype(np.float32), shape.faces.astype(np.int64)


def count_of_covers(uv, faces, size):
    counts = np.zeros(size * size, int)
    for texel in texels_of_each(uv.astype(np.float64) * size, faces, size):
        counts[texel] += 1
    return counts


def test_xatlas_unwraps_in_parts(sphere):
    """5120 triangles are four parts; all come back in their order, without overlaps, on most of the square."""
    vertices, faces = sphere
    source, corners, uv = unwrap(vertices, faces, seconds=60)
    assert (source[corners] == faces).all() and len(source) > len(vertices)
    assert uv_use(uv, corners) >= 0.6
    counts = count_of_covers(uv, corners, 512)
    assert (counts > 1).mean() < 1e-3 and (counts > 0).mean() == pytest.approx(uv_use(uv, corners), abs=0.01)


def test_xatlas_that_hangs_is_killed(broken, sphere):
    note, began = broken('hang'), time.monotonic()
    with pytest.raises(UnwrapError, match='more than 4 s'):
        unwrap(*sphere, seconds=4)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


@pytest.mark.parametrize(('act', 'reason'), [('die', 'signal 11'), ('raise', 'no charts')])
def test_xatlas_that_dies_is_an_error_of_one_line(broken, sphere, act, reason):
    broken(act)
    with pytest.raises(UnwrapError, match=reason):
        unwrap(*sphere, seconds=60)


def test_after_a_death_fewer_triangles_are_tried(broken, sphere, caplog):
    broken('die', most=3000)
    atlas = make_atlas(*sphere, 512)
    assert atlas.kind == 'xatlas, fewer faces' and len(atlas.faces) <= 2560 and 'signal 11' in caplog.text
    assert is_closed(atlas.uncut) and (atlas.source[atlas.faces] == atlas.uncut).all()


def test_after_two_deaths_there_is_a_grid(broken, sphere, caplog):
    broken('die')
    atlas = make_atlas(*sphere, 512)
    assert atlas.kind == 'triangles' and len(atlas.faces) == len(sphere[1]) and caplog.text.count('signal 11') == 2


@pytest.mark.parametrize(('count', 'size'), [(1, 64), (2, 64), (7, 64), (500, 64), (5000, 1024)])
def test_triangles_of_a_grid_do_not_touch(count, size):
    random = np.random.default_rng(0)
    vertices, faces = random.random((3 * count, 3), np.float32), np.arange(3 * count).reshape(-1, 3)
    atlas = triangle_atlas(vertices, faces, size)
    texel = atlas.uv.astype(np.float64) * size - 0.5
    np.testing.assert_allclose(texel, texel.round(), atol=1e-3)
    assert texel.min() > -0.1 and texel.max() < size - 0.9
    exact = (texel.round() + 0.5) / size
    owner = np.full((size, size), -1)
    for face, place in enumerate(texels_of_each(exact * size, atlas.faces, size)):
        assert (owner.reshape(-1)[place] == -1).all()
        owner.reshape(-1)[place] = face
    assert len(np.unique(owner)) == count + (owner == -1).any()
    for face in range(0, count, max(1, count // 50)):  # what bilinear look-ups on the long side touch
        one, other = exact[atlas.faces[face, 1]], exact[atlas.faces[face, 2]]
        for share in np.linspace(0, 1, 9):
            x, y = (one + share * (other - one)) * size - 0.5
            seen = owner[np.ix_(*([int(np.floor(v + 1e-6)), int(np.ceil(v - 1e-6))] for v in (y, x)))]
            assert set(seen.reshape(-1)) <= {face, -1}


def test_a_grid_that_is_too_full_is_none():
    vertices, faces = np.zeros((3, 3), np.float32), np.zeros((513, 3), int)
    assert triangle_atlas(vertices, faces[:512], 64) is not None and triangle_atlas(vertices, faces, 64) is None


def test_fewer_triangles_stay_closed(sphere):
    vertices, faces = decimate(*sphere, 600)
    assert is_closed(faces) and 300 < len(faces) <= 600 and faces.max() == len(vertices) - 1
    assert np.abs(np.linalg.norm(vertices, axis=1) - 1).max() < 0.03
    assert decimate(*sphere, 10_000)[1] is sphere[1]


def test_closed_means_each_edge_twice_in_opposite_directions(sphere):
    faces = sphere[1]
    assert is_closed(faces) and not is_closed(faces[1:]) and not is_closed(faces[:0])
    flipped = faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert not is_closed(flipped)


def test_normals_are_the_same_on_both_sides_of_a_seam(sphere):
    vertices, faces = sphere
    cut = vertices[faces].reshape(-1, 3)  # every triangle by itself
    normals = smooth_normals(cut, np.arange(len(cut)).reshape(-1, 3))
    np.testing.assert_allclose(normals, cut, atol=0.02)
    assert len(weld(cut, faces)[0]) == len(vertices)
    np.testing.assert_array_equal(smooth_normals(cut[:3] * 0, np.array([[0, 1, 2]])), [[0, 1, 0]] * 3)
