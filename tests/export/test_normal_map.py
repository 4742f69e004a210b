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

"""Normal maps: a coarse mesh leans as the fine one does, in the axes that glTF gives a texture."""

import json
import struct

import numpy as np
import pytest
from analytic_fields import Field, Model, orbit
from meshes import sphere

from nemo_dreamfusion.export.assets import export_asset
from nemo_dreamfusion.export.bake import bake_normals, find_texels, nearest_normals
from nemo_dreamfusion.export.geometry import make_tangents, smooth_normals

pytestmark = pytest.mark.unit
UP_FACING = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)  # a square that looks to +z
SQUARE = np.array([[0, 1, 2], [0, 2, 3]])
UPRIGHT = np.array([[0.0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # v counts from the top row down


def tangents_of(uv):
    return make_tangents(UP_FACING, SQUARE, uv, smooth_normals(UP_FACING, SQUARE))


@pytest.mark.parametrize(
    ('uv', 'tangent', 'sign'),
    [
        (UPRIGHT, (1, 0, 0), 1),  # z x x = y, which is up in the picture
        (UPRIGHT * [-1, 1] + [1, 0], (-1, 0, 0), -1),  # mirrored: z x -x = -y points down
        (1 - UPRIGHT, (-1, 0, 0), 1),  # turned by half
        (UPRIGHT[:, ::-1] * [1, -1] + [0, 1], (0, -1, 0), 1),
    ],
)
def test_tangents_point_where_u_grows_and_green_where_v_falls(uv, tangent, sign):
    found = tangents_of(uv.astype(np.float32))
    np.testing.assert_allclose(found, [(*tangent, sign)] * 4, atol=1e-6)
    up = np.cross((0.0, 0, 1), found[0, :3]) * found[0, 3]
    # v falls along it: the change of v is that of the affine map from the square to the texture
    change = np.linalg.lstsq(UP_FACING[1:, :2], (uv - uv[0])[1:], rcond=None)[0]
    assert up[:2] @ change[:, 1] < 0


def test_tangents_of_a_chart_without_area_are_still_unit_and_upright():
    found = tangents_of(np.zeros((4, 2), np.float32))
    np.testing.assert_allclose(np.linalg.norm(found[:, :3], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], 0, atol=1e-6)


@pytest.mark.parametrize(
    ('lean', 'color'),
    [((0, 0, 1), (128, 128, 255)), ((0.6, 0, 0.8), (204, 128, 230)), ((0, 0.6, 0.8), (128, 204, 230))],
)
def test_a_lean_to_the_right_is_red_and_up_is_green(lean, color):
    lean_fn = lambda positions: np.tile(np.array(lean, float), (len(positions), 1))  # noqa: E731
    texture = bake_normals(UP_FACING, SQUARE, UPRIGHT, tangents_of(UPRIGHT), 8, lean_fn)
    assert np.abs(texture.astype(int) - color).max() <= 1


def test_a_coarse_ball_gets_the_normals_of_a_fine_one():
    vertices, faces = (x.numpy() for x in sphere(400))
    uv = np.stack([np.arctan2(vertices[:, 0], vertices[:, 2]) / 7 + 0.5, 0.5 - vertices[:, 1] / 2.2], -1)
    ahead = np.ptp(uv[faces][..., 0], axis=1) < 0.3  # not across the seam
    faces = faces[ahead]
    tangents = make_tangents(vertices, faces, uv, smooth_normals(vertices, faces))
    fine = [x.numpy() for x in sphere(40_000, bumps=0.03)]
    texture = bake_normals(vertices, faces, uv, tangents, 256, nearest_normals(*fine))
    own = smooth_normals(vertices, faces)
    up = np.cross(own, tangents[:, :3]) * tangents[:, 3:]
    # as a viewer does it: axes between the corners, the texel's numbers along them
    texel, points = find_texels(np.concatenate([vertices, tangents[:, :3], up, own], -1), faces, uv, 256)
    local = texture.reshape(-1, 3)[texel] / 255 * 2 - 1
    shown = (local[:, None] @ points[:, 3:].reshape(-1, 3, 3))[:, 0]
    shown /= np.linalg.norm(shown, axis=-1, keepdims=True)
    true = nearest_normals(*fine)(points[:, :3])
    plain = points[:, 9:] / np.linalg.norm(points[:, 9:], axis=-1, keepdims=True)
    angle = lambda a: np.degrees(np.arccos(np.clip((a * true).sum(-1), -1, 1)))  # noqa: E731
    assert angle(plain).mean() > 5 and angle(shown).mean() < 1.0


def test_only_a_mesh_of_many_times_fewer_faces_has_one(tmp_path):
    shared = dict(resolution=48, texture_size=256, orbit=orbit(views=2, size=24))
    few = export_asset(Model(Field()), tmp_path / 'few.glb', faces=600, **shared)
    many = export_asset(Model(Field()), tmp_path / 'many.glb', faces=2000, **shared)
    assert few.report['faces_before'] > 5 * few.report['faces'] and few.report['normal_map']
    assert many.report['faces_before'] < 5 * many.report['faces'] and not many.report['normal_map']
    tree = _read_tree(tmp_path / 'few.glb')
    attributes = tree['meshes'][0]['primitives'][0]['attributes']
    assert tree['accessors'][attributes['TANGENT']]['type'] == 'VEC4'
    texture = tree['textures'][tree['materials'][0]['normalTexture']['index']]
    assert tree['images'][texture['source']]['name'] == 'normals'
    assert 'normalTexture' not in _read_tree(tmp_path / 'many.glb')['materials'][0]
    assert few.mesh.normal_map.mean((0, 1))[2] > 200  # most of the surface leans little


def _read_tree(path):
    raw = path.read_bytes()
    return json.loads(raw[20 : 20 + struct.unpack('<I', raw[12:16])[0]])
