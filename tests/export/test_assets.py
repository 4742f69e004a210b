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

"""Textured assets: what is in the files, that it looks like the field, and what happens when a step fails."""

import json
import logging
import os
import struct

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import BOUND, Field, Model, asymmetric, ball, orbit, position_color
from PIL import Image
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.export.agreement import measure_agreement
from nemo_dreamfusion.export.assets import describe, export_asset
from nemo_dreamfusion.export.bake import bake, fill_gutters
from nemo_dreamfusion.export.decimate import is_closed
from nemo_dreamfusion.export.geometry import weld
from nemo_dreamfusion.export.mesh_files import Mesh, load_mesh, save_mesh
from nemo_dreamfusion.export.obj import save_textured_obj
from nemo_dreamfusion.export.raster import rasterize, sample_texture
from nemo_dreamfusion.export.retexture import save_retextured_obj
from nemo_dreamfusion.export.seen import seen_colors

SMALL = dict(resolution=64, faces=1500, texture_size=512, orbit=orbit())
ABOUT = {'prompt': 'a "sign" with <b>ümlauts</b>', 'seed': 3}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A textured .glb of the asymmetric object, and its report."""
    path = tmp_path_factory.mktemp('asset') / 'mesh.glb'
    return path, export_asset(Model(), path, about=ABOUT, **SMALL).report


def psnr(one, other):
    return -10 * np.log10(np.mean((np.asarray(one) - np.asarray(other)) ** 2))


def points_on(mesh, count=20_000):
    """Random points of the triangles, by area: places on the texture and positions."""
    random = np.random.default_rng(0)
    a, b, c = mesh.vertices[mesh.faces].astype(float).transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
    face = random.choice(len(area), count, p=area / area.sum())
    share = random.dirichlet((1, 1, 1), count)[..., None]
    return (share * mesh.uv[mesh.faces[face]]).sum(1), (share * mesh.vertices[mesh.faces[face]]).sum(1)


def read_glb(path):
    """The tree and the binary chunk."""
    raw = path.read_bytes()
    magic, version, total, length, kind = struct.unpack('<4sIIII', raw[:20])
    assert (magic, version, total, kind) == (b'glTF', 2, len(raw), 0x4E4F534A) and length % 4 == 0
    size, kind = struct.unpack('<II', raw[20 + length : 28 + length])
    assert kind == 0x004E4942 and size % 4 == 0 and 28 + length + size == len(raw)
    return json.loads(raw[20 : 20 + length]), raw[28 + length :]


def accessor(tree, binary, index):
    """The numbers of an accessor, after a check of what the specification asks of it and of its view."""
    found = tree['accessors'][index]
    view = tree['bufferViews'][found['bufferView']]
    width = {'SCALAR': 1, 'VEC2': 2, 'VEC3': 3, 'VEC4': 4}[found['type']]
    kind = np.dtype({5126: '<f4', 5125: '<u4', 5121: 'u1'}[found['componentType']])
    assert view['byteOffset'] % 4 == 0 and view['byteLength'] == found['count'] * width * kind.itemsize
    assert view['byteOffset'] + view['byteLength'] <= len(binary) == tree['buffers'][0]['byteLength']
    return np.frombuffer(binary, kind, found['count'] * width, view['byteOffset']).reshape(-1, width), found, view


def test_a_glb_is_as_the_specification_has_it(made):
    tree, binary = read_glb(made[0])
    (primitive,) = tree['meshes'][0]['primitives']
    position, found, view = accessor(tree, binary, primitive['attributes']['POSITION'])
    assert found['min'] == position.min(0).tolist() and found['max'] == position.max(0).tolist()
    assert view['target'] == 34962
    normal, _, _ = accessor(tree, binary, primitive['attributes']['NORMAL'])
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    place, _, _ = accessor(tree, binary, primitive['attributes']['TEXCOORD_0'])
    assert place.min() >= 0 and place.max() <= 1 and len(place) == len(normal) == len(position)
    color, found, _ = accessor(tree, binary, primitive['attributes']['COLOR_0'])
    assert (
        found['normalized'] and color.shape == (len(position), 4) and (color == 255).all()
    )  # leaves the texture as it is
    index, _, view = accessor(tree, binary, primitive['indices'])
    assert index.max() == len(position) - 1 and index.min() == 0 and len(index) % 3 == 0 and view['target'] == 34963
    corners = position[index.reshape(-1, 3)].astype(float)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outward = (across * normal[index.reshape(-1, 3)].sum(1)).sum(-1)
    assert (outward > 0).mean() > 0.99 and (corners[:, 0] * across).sum() > 0  # normals and faces look out
    (material,) = tree['materials']
    surface = material['pbrMetallicRoughness']
    assert surface['metallicFactor'] == 0 and surface['roughnessFactor'] >= 0.6 and material['doubleSided'] is False
    image = tree['images'][tree['textures'][surface['baseColorTexture']['index']]['source']]
    view = tree['bufferViews'][image['bufferView']]
    assert 'target' not in view and image['mimeType'] == 'image/png'
    assert binary[view['byteOffset'] :].startswith(b'\x89PNG')


def test_a_glb_says_where_it_comes_from(made):
    extras = read_glb(made[0])[0]['asset']['extras']
    assert extras['prompt'] == ABOUT['prompt'] and extras['seed'] == 3
    assert extras['mesh']['atlas'] == made[1]['atlas'] == 'xatlas' and extras['mesh']['iou'] == made[1]['iou']


def test_the_surface_is_closed_small_and_where_the_field_says(made):
    mesh, report = load_mesh(made[0]), made[1]
    assert len(mesh.faces) == report['faces'] <= 1500 < report['faces_before']
    assert len(mesh.vertices) == report['vertices'] and report['closed']
    assert is_closed(weld(mesh.vertices, mesh.faces)[1])
    assert asymmetric(torch.from_numpy(mesh.vertices)).abs().max() < 1.5 * 2 * BOUND / 63


def test_the_texture_is_the_albedo_of_the_surface(made):
    mesh = load_mesh(made[0])
    place, point = points_on(mesh)
    assert psnr(sample_texture(mesh.texture / 255, place), position_color(torch.from_numpy(point))) >= 35
    flipped = np.stack([place[:, 0], 1 - place[:, 1]], -1)
    assert psnr(sample_texture(mesh.texture / 255, flipped), position_color(torch.from_numpy(point))) < 20


def test_the_renders_of_the_field_and_of_the_file_agree(made):
    mesh, cameras = load_mesh(made[0]), orbit(3, 64)
    for i in range(3):
        render, (image, opacity) = Model().render_cameras(cameras[i]), rasterize(mesh, cameras[i], samples=1)
        one, other = render.opacity[..., 0] > 0.5, opacity[..., 0] > 0.5
        assert (one & other).sum() / (one | other).sum() > 0.93
        mirrored = other.flip(2)
        assert (one & mirrored).sum() / (one | mirrored).sum() < 0.9  # the test can tell
        both = (render.opacity[..., 0] > 0.99) & (opacity[..., 0] == 1)
        assert psnr(render.image[both], image[both]) > 32
    assert made[1]['iou'] > 0.93 and made[1]['psnr'] > 32


def test_a_round_object_uses_most_of_its_texture(tmp_path):
    report = export_asset(Model(Field(ball)), tmp_path / 'ball.glb', **{**SMALL, 'faces': 4000}).report
    assert report['atlas'] == 'xatlas' and report['uv_use'] >= 0.6 and report['texture_size'] == 512


def test_a_triangle_smaller_than_a_texel_has_its_own_colour():
    """Its chart lies between the centres of texels, far from a large one's."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 0], [5.01, 5, 0], [5, 5.01, 0]], np.float32)
    uv = np.array([[0, 0], [0.5, 0], [0, 0.5], [0.9, 0.9], [0.901, 0.9], [0.9, 0.901]], np.float32)
    texture = bake(vertices, np.array([[0, 1, 2], [3, 4, 5]]), uv, 16, lambda points, _: (points > 4).astype(float))
    assert texture[14, 14].tolist() == [255, 255, 0] and texture[2, 2].tolist() == [0, 0, 0]


def test_trimesh_shows_the_texture(made):
    shape = trimesh.load(made[0], force='mesh')
    colors = shape.visual.to_color().vertex_colors[:, :3] / 255
    assert np.abs(colors - position_color(torch.from_numpy(shape.vertices)).numpy()).max() < 0.05


def test_an_obj_replaces_its_own_files_and_no_others(made, tmp_path):
    """As preview.png in a run's folder, or the texture of another object."""
    mesh = load_mesh(made[0])
    (tmp_path / 'preview.png').write_bytes(b'mine')
    with refusal('mesh_fname', str(tmp_path / 'preview.obj'), 'preview.png'):
        export_asset(Model(), tmp_path / 'preview.obj', **SMALL)
    with refusal('mesh_fname', NO_VALUE, 'preview.png'):
        save_mesh(mesh, tmp_path / 'preview.obj')
    assert [path.name for path in tmp_path.iterdir()] == ['preview.png']
    save_mesh(mesh, tmp_path / 'a duck.obj')
    save_mesh(mesh, tmp_path / 'a duck.obj')  # its own
    (tmp_path / 'a duck.mtl').write_text('newmtl matt\nmap_Kd other.png\n')
    with refusal('mesh_fname', NO_VALUE, 'a duck.png'):
        save_mesh(mesh, tmp_path / 'a duck.obj')
    (tmp_path / 'a duck.obj').write_text('mtllib other.mtl\n')
    with refusal('mesh_fname', NO_VALUE, 'a duck.mtl'):
        save_retextured_obj(tmp_path / 'a duck.obj', mesh.texture, tmp_path / 'a duck.obj')


@pytest.mark.parametrize('moved', [0, 1, 2])
def test_an_obj_is_written_again_by_the_same_command_after_one_that_was_killed(tmp_path, monkeypatch, moved):
    def replace(*names):
        if len(list(tmp_path.glob('out.*'))) == moved:
            raise KeyboardInterrupt
        real(*names)

    real, corners = os.replace, np.eye(3, dtype=np.float32)
    what = (corners, np.array([[0, 1, 2]]), corners[:, :2], np.zeros((4, 4, 3), np.uint8), tmp_path / 'out.obj')
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('nemo_dreamfusion.parts.files.os.replace', replace)
        save_textured_obj(*what)
    assert len(list(tmp_path.iterdir())) == moved
    save_textured_obj(*what)
    (tmp_path / 'out.mtl').unlink()
    save_textured_obj(*what)


def test_an_obj_has_its_material_and_texture_beside_it(made, tmp_path):
    export_asset(Model(), tmp_path / 'my duck.obj', **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['my duck.mtl', 'my duck.obj', 'my duck.png']
    assert 'map_Kd my duck.png' in (tmp_path / 'my duck.mtl').read_text()
    assert Image.open(tmp_path / 'my duck.png').size == (512, 512)
    mesh = load_mesh(tmp_path / 'my duck.obj')
    assert is_closed(weld(mesh.vertices, mesh.faces)[1])
    place, point = points_on(mesh)
    assert psnr(sample_texture(mesh.texture / 255, place), position_color(torch.from_numpy(point))) >= 35


def test_a_ply_has_colours_and_a_stl_the_shape(tmp_path):
    for suffix in ('.ply', '.stl'):
        report = export_asset(Model(), tmp_path / f'out{suffix}', **SMALL).report
        assert report['atlas'] == 'vertex colours' and report['uv_use'] is report['texture_size'] is None
        shape = trimesh.load(tmp_path / f'out{suffix}')
        assert len(shape.faces) == report['faces'] <= 1500 and shape.is_watertight and shape.volume > 0
    mesh = load_mesh(tmp_path / 'out.ply')
    assert np.abs(mesh.vertex_colors - position_color(torch.from_numpy(mesh.vertices)).numpy()).max() < 0.06


def test_the_texture_of_a_foggy_field_is_what_cameras_see():
    """A red veil before a blue wall that looks toward the camera at +z: the known composite, not the veil's albedo.

    It is looked at from 20 degrees below the camera's 15 and from 30 above, each as much as it faces the veil.
    """

    def wall(points):
        return points[:, 2] + 0.02

    class Veiled(Field):
        def density(self, positions):
            veil = 5.0 * ((positions[:, 2] > 0) & (positions[:, 2] < 0.1))
            return super().density(positions) + veil

    field = Veiled(wall, lambda p: torch.where(p[:, 2:] > 0, torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])))
    front = orbit(1)
    look = seen_colors(field, torch.device('cpu'), front)
    normal = np.array([[0.0, 0.0, 1.0]], np.float32)
    slant = np.cos(np.deg2rad([15 - 20, 15 + 30]))
    (color,) = look(np.array([[0.1, 0.2, 0.1]], np.float32), normal)  # on the veil
    veil = np.average(1 - np.exp(-5.0 * 0.1 / slant), weights=slant)
    np.testing.assert_allclose(color, [veil, 0, 1 - veil], atol=0.12)
    (behind,) = look(np.array([[0.1, 0.2, -0.5]], np.float32), normal)  # inside the wall
    np.testing.assert_allclose(behind, [0, 0, 1], atol=1e-3)


def test_a_mesh_that_is_not_what_the_field_shows_is_warned_of():
    """A ball of two thirds of the radius covers four ninths of the disk."""
    small = trimesh.creation.icosphere(3, 0.7 * 2 / 3)
    mesh = Mesh(small.vertices.astype(np.float32), small.faces, np.full((len(small.vertices), 3), 0.5))
    found = measure_agreement(Model(Field(ball)), mesh, orbit(2, 64))
    assert found.iou == pytest.approx(4 / 9, abs=0.04)
    assert 'mesh_resolution' in found.warning()
    large = trimesh.creation.icosphere(4, 0.7)
    colors = position_color(torch.from_numpy(large.vertices)).numpy()
    good = measure_agreement(Model(Field(ball)), Mesh(large.vertices, large.faces, colors), orbit(2, 64))
    assert good.iou > 0.97 and good.psnr > 35 and good.warning() is None


def test_without_the_packages_one_warning_says_what_is_done(tmp_path, monkeypatch, caplog):
    import importlib.util

    real = importlib.util.find_spec
    absent = ('xatlas', 'fast_simplification')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name in absent else real(name, *a))
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        report = export_asset(Model(), tmp_path / 'out.glb', **{**SMALL, 'resolution': 24}).report
    (said,) = [
        r.getMessage() for r in caplog.records if 'nemo_dreamfusion.export' in r.name and 'xatlas' in r.getMessage()
    ]
    assert 'fast-simplification' in said and 'nemo_dreamfusion[assets]' in said
    assert report['atlas'] == 'triangles' and report['faces'] == report['faces_before']
    mesh = load_mesh(tmp_path / 'out.glb')
    place, point = points_on(mesh)
    assert psnr(sample_texture(mesh.texture / 255, place), position_color(torch.from_numpy(point))) >= 35


def test_too_many_triangles_for_the_texture_get_vertex_colours(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr('nemo_dreamfusion.export.atlas.can_unwrap', lambda: False)
    with caplog.at_level(logging.WARNING, logger='nemo_dreamfusion'):
        report = export_asset(Model(), tmp_path / 'out.glb', **{**SMALL, 'texture_size': 64}).report
    assert report['atlas'] == 'vertex colours' and report['texture_size'] is None and 'texture_size' in caplog.text
    assert read_glb(tmp_path / 'out.glb')[0]['asset']['extras']['mesh']['atlas'] == 'vertex colours'
    mesh = load_mesh(tmp_path / 'out.glb')
    assert np.abs(mesh.vertex_colors - position_color(torch.from_numpy(mesh.vertices)).numpy()).max() < 0.06


@pytest.mark.parametrize(
    ('options', 'key', 'value', 'way_out'),
    [
        (dict(faces=3), 'mesh_faces', 3, 'at least 100'),
        (dict(texture_size=0), 'texture_size', 0, 'at least 64'),
        (dict(texture_size=100_000), 'texture_size', 100_000, 'at most 4096'),
        (dict(texture_size=1024.5), 'texture_size', 1024.5, 'whole number'),
    ],
)
def test_numbers_out_of_range_are_refused_before_the_work(tmp_path, options, key, value, way_out):
    with refusal(key, value, way_out):
        export_asset(None, tmp_path / 'out.glb', **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('field', 'key', 'value', 'way_out'),
    [
        (Field(ball, peak=0.01), 'density', 0.01, 'model.nerf.blob_density'),
        (Field(lambda p: p[:, 0] * 0 - 1, peak=0.2), 'density', 0.2, 'Train longer'),  # fog all over
        (Field(ball, peak=float('nan')), 'densities', 'not finite', 'model.optim.lr'),
        (Field(ball, lambda p: p * float('nan')), 'colours', 'not finite', 'model.optim.lr'),
    ],
)
def test_a_field_without_a_surface_leaves_what_was_there(tmp_path, field, key, value, way_out):
    (tmp_path / 'out.glb').write_bytes(b'before')
    with refusal(key, value, way_out):
        export_asset(Model(field), tmp_path / 'out.glb', **{**SMALL, 'resolution': 24})
    assert [p.name for p in tmp_path.iterdir()] == ['out.glb'] and (tmp_path / 'out.glb').read_bytes() == b'before'


def test_an_obj_that_cannot_be_written_whole_is_not_written(made, tmp_path, monkeypatch):
    from nemo_dreamfusion.export import obj
    from nemo_dreamfusion.export.mesh_files import save_mesh

    calls = []

    def fail_third(path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, 'No space left on device')
        return real(path)

    real = obj.atomic_path
    monkeypatch.setattr(obj, 'atomic_path', fail_third)
    with pytest.raises(OSError, match='No space'):
        save_mesh(load_mesh(made[0]), tmp_path / 'out.obj')
    assert not list(tmp_path.iterdir())


def test_gutters_take_the_nearest_colour():
    texture = np.zeros((4, 8, 3), np.uint8)
    texture[:, 0], texture[:, 7] = (10, 20, 30), (200, 100, 50)
    covered = np.zeros((4, 8), bool)
    covered[:, [0, 7]] = True
    filled = fill_gutters(texture, covered)
    assert (filled[:, :4] == (10, 20, 30)).all() and (filled[:, 4:] == (200, 100, 50)).all()


def test_an_object_is_described_by_what_it_has():
    class Whole:
        options = {'seed': 7, 'guidance': {'_target_': 'a.b.PocketGuidance', 'source': 'pocket'}}
        prompts = type('Prompts', (), {'prompt': 'a duck'})

    about = describe(Whole())
    assert about['prompt'] == 'a duck' and about['seed'] == 7 and about['licence'].startswith('Apache-2.0')
    assert about['guidance'] == {'kind': 'PocketGuidance', 'source': 'pocket'}
    assert set(describe(object())) == {'generator'}


def test_other_work_while_the_atlas_is_made_changes_nothing(made, tmp_path):
    calls = []

    def look():
        views = Model().render_cameras(orbit()[0])
        calls.append(float(views.image.sum()))

    report = export_asset(Model(), tmp_path / 'mesh.glb', about=ABOUT, meanwhile=look, **SMALL).report
    assert len(calls) == 1 and (tmp_path / 'mesh.glb').read_bytes() == made[0].read_bytes()
    assert report['atlas'] == made[1]['atlas']


def test_an_error_in_the_other_work_is_raised_at_once_and_nothing_is_written(tmp_path):
    def fail():
        raise RuntimeError('no picture')

    with pytest.raises(RuntimeError, match='no picture'):
        export_asset(Model(), tmp_path / 'mesh.glb', meanwhile=fail, **SMALL)
    assert not list(tmp_path.iterdir())


def test_a_mesh_without_an_atlas_leaves_the_other_work_to_its_caller(tmp_path):
    calls = []
    export_asset(Model(), tmp_path / 'mesh.ply', meanwhile=lambda: calls.append(1), **SMALL)
    assert not calls
