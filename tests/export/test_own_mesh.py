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

"""Meshes of one's own: what is read, cleaned and refused, how they are placed, and how their texture is written back."""

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import Field
from PIL import Image
from refusals import refusal

from nemo_dreamfusion.export.own_asset import OWN_PLACES, paint_own, save_in_place
from nemo_dreamfusion.export.own_mesh import FILLS, read_own_mesh, wind_outward

pytestmark = pytest.mark.unit


def write_box(path, extents=(1.0, 2.0, 3.0), image=None):
    """A box whose six sides share a texture, three to a row; every corner has three vertices."""
    box = trimesh.creation.box(extents=extents)
    corners, faces, uv = [], [], []
    for k, pair in enumerate(box.facets):
        used = np.unique(box.faces[pair])
        flat = np.ptp(box.vertices[used], axis=0) > 0
        place = (box.vertices[used][:, flat] / np.array(extents)[flat] + 0.5) * 0.9 + 0.05
        uv.append((place + [k % 3, k // 3]) / [3, 2])
        faces.append(np.searchsorted(used, box.faces[pair]) + 4 * k)
        corners.append(box.vertices[used])
    picture = Image.fromarray(np.full((8, 8, 3), 200, np.uint8) if image is None else image)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    looks = trimesh.visual.TextureVisuals(uv=np.concatenate(uv), material=material)
    mesh = trimesh.Trimesh(np.concatenate(corners), np.concatenate(faces), visual=looks, process=False)
    mesh.export(path)
    return path


@pytest.fixture
def box(tmp_path):
    return write_box(tmp_path / 'box.glb')


def extent(mesh):
    return (mesh.welded.vertices.max(0).values - mesh.welded.vertices.min(0).values).tolist()


@pytest.mark.parametrize('suffix', ['.glb', '.obj', '.ply', '.stl'])
def test_every_format_is_read_and_fitted_into_the_ball(suffix, tmp_path):
    write_box(tmp_path / f'box{suffix}')
    own = read_own_mesh(tmp_path / f'box{suffix}', bound=2.0)
    assert own.welded.vertices.norm(dim=1).amax().item() == pytest.approx(2 * FILLS)
    scale = 2 * FILLS / (14**0.5 / 2)
    assert extent(own) == pytest.approx([scale, 2 * scale, 3 * scale], rel=1e-5)
    assert len(own.welded.vertices) == 8 and len(own.welded.faces) == 12
    assert 'not closed' not in ' '.join(own.notes)


def test_axes_are_turned_as_they_are_said(box):
    """A file whose z points up, and one whose front faces +x: both end with y up and the front at +z."""
    axes = {'up': np.array([0, 0, 1.0]), 'front': np.array([0, -1.0, 0])}
    turn = read_own_mesh(box, up='z').file.placement[:, :3].numpy()
    turn = turn / np.linalg.norm(turn[0])
    np.testing.assert_allclose(turn @ axes['up'], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(turn @ axes['front'], [0, 0, 1], atol=1e-6)
    turn = read_own_mesh(box, azimuth_deg=90.0).file.placement[:, :3].numpy()
    np.testing.assert_allclose(turn @ [1, 0, 0] / np.linalg.norm(turn[0]), [0, 0, 1], atol=1e-6)
    assert np.linalg.det(turn) > 0


def test_a_placed_file_is_the_shape_that_is_drawn(box):
    own = read_own_mesh(box, azimuth_deg=30.0)
    world = own.file.vertices @ own.file.placement[:, :3].T + own.file.placement[:, 3]
    nearest = torch.cdist(world, own.welded.vertices).amin(1)
    assert nearest.max() < 1e-6


def test_units_of_the_file_are_kept_on_request(box):
    with refusal('model.mesh', str(box), 'model.mesh_fit=true'):
        read_own_mesh(box, fit=False)
    own = read_own_mesh(box, bound=1.5, fit=False)
    assert extent(own) == [1.0, 2.0, 3.0] and torch.equal(own.file.placement[:, :3], torch.eye(3))


def test_broken_triangles_are_left_out_and_said(tmp_path):
    ball = trimesh.creation.icosphere(2)
    vertices = np.concatenate([ball.vertices, [[np.nan, 0, 0]]])
    extra = [[0, 0, 1], [0, 1, len(vertices) - 1], ball.faces[5][::-1]]
    faces = np.concatenate([ball.faces[1:], extra])
    flipped = np.arange(len(faces)) % 3 == 0
    faces = np.where(flipped[:, None], faces[:, ::-1], faces)
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / 'broken.ply')
    own = read_own_mesh(tmp_path / 'broken.ply')
    said = ' '.join(own.notes)
    for part in ('1 faces with corners that are no', '1 faces with a corner twice', '1 faces that are there twice'):
        assert part in said
    assert 'turned outward' in said and 'not closed: 3 edges' in said
    a, b, c = own.welded.vertices[own.welded.faces].unbind(1)
    assert ((torch.linalg.cross(b - a, c - a) * a).sum(1) > 0).all()


def test_each_part_is_wound_outward_by_itself():
    a, b = trimesh.creation.icosphere(1), trimesh.creation.icosphere(1)
    vertices = np.concatenate([a.vertices, b.vertices + [3, 0, 0]])
    faces = np.concatenate([a.faces[:, ::-1], b.faces + len(a.vertices)])
    found, count = wind_outward(vertices, faces)
    assert count == len(a.faces) and (found[:count, ::-1] == faces[:count]).all()
    np.testing.assert_array_equal(found[count:], faces[count:])


def test_what_is_no_mesh_is_refused_in_one_line(tmp_path):
    points = tmp_path / 'points.ply'
    trimesh.PointCloud(np.eye(3)).export(points)
    (tmp_path / 'text.glb').write_text('this is no mesh')
    (tmp_path / 'empty.obj').write_text('')
    (tmp_path / 'cut.glb').write_bytes(write_box(tmp_path / 'whole.glb').read_bytes()[:200])
    nothing = trimesh.Trimesh(np.full((3, 3), np.nan), [[0, 1, 2]], process=False)
    nothing.export(tmp_path / 'nan.ply')
    flat = trimesh.Trimesh(np.ones((3, 3)), [[0, 1, 2]], process=False)
    flat.export(tmp_path / 'point.ply')
    for name in ('points.ply', 'text.glb', 'empty.obj', 'cut.glb', 'nan.ply', 'point.ply', 'nowhere.glb', 'box.fbx'):
        with pytest.raises(ValueError, match='model.mesh') as caught:
            read_own_mesh(tmp_path / name)
        assert '\n' not in str(caught.value)


def test_colours_of_the_file_are_found_where_they_are(tmp_path):
    """Left half of the texture red, right half blue: the sides in the left column of three are red."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :32, 0], image[:, 64:, 2] = 255, 255
    write_box(tmp_path / 'box.glb', image=image)
    own = read_own_mesh(tmp_path / 'box.glb')
    points, colors = own.colors
    assert set(map(tuple, colors.unique(dim=0).tolist())) <= {(1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)}
    for color in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)):
        here = points[(colors == torch.tensor(color)).all(1)]
        flat = [int((here[:, axis].abs() - here[:, axis].abs().max()).abs().max() < 1e-3) for axis in range(3)]
        assert sum(flat) <= 1  # of two sides, which may lie opposite
    assert read_own_mesh(write_box(tmp_path / 'plain.stl')).colors is None


def read_glb(content):
    length = struct.unpack_from('<I', content, 12)[0]
    return json.loads(content[20 : 20 + length]), content[20 + length + 8 :]


def test_the_files_own_texture_is_written_back_and_nothing_else_changes(box, tmp_path):
    """The data of the file come first, bit for bit; the new texture shows the field's colour at each place."""
    own, field = read_own_mesh(box, bound=1.2), Field()
    asset = paint_own(own.file, field, 128, textured=True)
    assert asset.kind == OWN_PLACES
    np.testing.assert_array_equal(asset.mesh.vertices, own.file.vertices.numpy())
    out = tmp_path / 'out.glb'
    assert save_in_place(asset, str(box), out, moved=False)
    (before, data), (after, new) = read_glb(box.read_bytes()), read_glb(out.read_bytes())
    assert new.startswith(data[: before['buffers'][0]['byteLength']])
    for key in ('accessors', 'nodes', 'meshes', 'scenes'):
        assert before[key] == after[key]
    read = trimesh.load(out, force='mesh')
    np.testing.assert_array_equal(read.vertices, trimesh.load(box, force='mesh').vertices)
    shown = read.visual.material.baseColorTexture.convert('RGB')
    middle = read.triangles.mean(1)
    place = read.visual.uv[read.faces].mean(1)
    texel = np.array([shown.getpixel((int(u * 128), int((1 - v) * 128))) for u, v in place]) / 255
    world = torch.from_numpy(middle).float() @ own.file.placement[:, :3].T + own.file.placement[:, 3]
    np.testing.assert_allclose(texel, field.color(world).numpy(), atol=0.03)


def test_an_obj_keeps_its_lines(tmp_path):
    source = write_box(tmp_path / 'box.obj')
    own = read_own_mesh(source, bound=1.2)
    asset = paint_own(own.file, Field(), 64, textured=True)
    out = tmp_path / 'new' / 'out.obj'
    out.parent.mkdir()
    assert save_in_place(asset, str(source), out, moved=False)
    kept = [line for line in source.read_text().splitlines() if line[:2] in ('v ', 'vt', 'f ')]
    assert kept == [line for line in out.read_text().splitlines() if line[:2] in ('v ', 'vt', 'f ')]
    assert {'out.mtl', 'out.obj', 'out.png'} == {path.name for path in out.parent.iterdir()}


def test_what_has_no_place_of_its_own_gets_an_atlas_with_the_same_corners(tmp_path):
    own = read_own_mesh(write_box(tmp_path / 'box.stl'), bound=1.2)
    asset = paint_own(own.file, Field(), 64, textured=True)
    assert asset.kind != OWN_PLACES and asset.mesh.texture is not None
    given = set(map(tuple, own.file.vertices.tolist()))
    assert set(map(tuple, asset.mesh.vertices.tolist())) == given
    assert not save_in_place(asset, str(tmp_path / 'box.stl'), tmp_path / 'out.glb', moved=False)
