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

"""Meshes lie where the field says: analytic solids, exported, read back, looked at from the field's own cameras."""

import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import BOUND, asymmetric, position_color
from refusals import refusal
from skimage.measure import marching_cubes

from nemo_dreamfusion.data.cameras import rays
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.glb import ROUGHNESS
from nemo_dreamfusion.export.mesh import auto_threshold, extract_mesh, sample_grid
from nemo_dreamfusion.export.mesh_files import Mesh, linear_to_srgb, load_mesh, save_mesh, srgb_to_linear
from nemo_dreamfusion.export.raster import rasterize

RESOLUTION = 48
VOXEL = 2 * BOUND / (RESOLUTION - 1)
CENTRE = torch.tensor([0.3, -0.2, 0.1])


def solid(signed_distance, peak=400.0, width=0.003):
    """A density that is ``peak`` inside and falls to nothing within a few ``width`` of the surface."""
    return lambda points: peak * torch.sigmoid(-signed_distance(points) / width)


def sphere(points):
    return (points - CENTRE).norm(dim=-1) - 0.5


def extract(signed_distance, color=position_color, resolution=RESOLUTION, **options):
    return extract_mesh(solid(signed_distance), color, bound=BOUND, resolution=resolution, **options)


def volume(mesh):
    a, b, c = mesh.vertices[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    return (a * np.cross(b, c)).sum() / 6  # divergence theorem: positive for faces that look outward


def distance_of_vertices(mesh, signed_distance):
    return signed_distance(torch.from_numpy(mesh.vertices)).abs().max().item()


@pytest.mark.parametrize('suffix', ['.glb', '.obj', '.ply'])
@pytest.mark.parametrize('shape', [sphere, asymmetric])
def test_exported_and_read_back_it_lies_where_the_field_says(tmp_path, shape, suffix):
    path = save_mesh(extract(shape), tmp_path / f'out{suffix}')
    mesh = load_mesh(path)
    assert distance_of_vertices(mesh, shape) < VOXEL
    # and no part of the surface is missing: solid corners of the grid reach as far along each axis as the mesh
    corners = np.argwhere(sample_grid(shape, bound=BOUND, resolution=RESOLUTION, device='cpu', batch=4096) < 0)
    low, high = (corners.min(0) * VOXEL - BOUND, corners.max(0) * VOXEL - BOUND)
    assert np.abs(mesh.vertices.min(0) - low).max() < 2 * VOXEL
    assert np.abs(mesh.vertices.max(0) - high).max() < 2 * VOXEL
    np.testing.assert_allclose(mesh.vertex_colors, position_color(torch.from_numpy(mesh.vertices)), atol=1 / 255)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f'out{suffix}']  # no temporary file, no material beside it


def test_faces_look_outward_and_enclose_the_volume():
    mesh = extract(sphere)
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.12)
    edges = np.sort(np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed: each edge has two faces
    assert mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int64


def volume_render(density, color, cameras, steps=400):
    """Plain quadrature along each ray, on white."""
    bundle = rays(cameras)
    t = torch.linspace(1.0, 5.5, steps)
    points = bundle.origins[:, None] + t[None, :, None] * bundle.directions[:, None]
    inside = (points.abs() <= BOUND).all(-1)
    depth = density(points.view(-1, 3)).view(points.shape[:2]) * inside * (t[1] - t[0])
    before = torch.cumsum(depth, 1) - depth
    weights = torch.exp(-before) * (1 - torch.exp(-depth))
    opacity = weights.sum(1, keepdim=True)
    image = (weights[..., None] * color(points.view(-1, 3)).view(points.shape)).sum(1) + 1 - opacity
    return image.view(*bundle.image_shape, 3), opacity.view(*bundle.image_shape, 1)


def test_render_of_the_mesh_and_of_the_field_agree_from_the_same_camera():
    cameras = OrbitCameras(views=3, elevation_deg=25, distance=3.2, fov_deg=40, height=40, width=48).all()
    image, opacity = volume_render(solid(asymmetric), position_color, cameras)
    mesh_image, mesh_opacity = rasterize(extract(asymmetric, resolution=64), cameras)
    for b in range(3):
        one, other = opacity[b] > 0.5, mesh_opacity[b] > 0.5
        assert (one & other).sum() / (one | other).sum() > 0.95
        mirrored = other.flip(1)
        assert (one & mirrored).sum() / (one | mirrored).sum() < 0.9  # the test can tell
        both = (opacity[b, ..., 0] > 0.95) & (mesh_opacity[b, ..., 0] == 1)
        assert (image[b] - mesh_image[b])[both].abs().mean() < 0.02


def test_empty_field_says_so():
    with refusal('density', 0.01, 'model.nerf.blob_density', 'threshold'):
        extract_mesh(lambda p: 0.01 + 0 * p[:, 0], position_color, bound=BOUND, resolution=16)


def test_broken_field_says_so():
    with refusal('densities', 'not finite', 'model.optim.lr'):
        extract_mesh(lambda p: torch.where(p[:, 0] > 0, torch.nan, 1.0), position_color, bound=BOUND, resolution=16)


def test_threshold_out_of_reach_says_so():
    with refusal('threshold', 500, 400, "threshold='auto'"):
        extract(sphere, threshold=500.0)
    for bad in ('otsu', 0, -1):
        with refusal('threshold', bad, 'auto' if bad == 'otsu' else 'greater than 0'):
            extract(sphere, threshold=bad)


@pytest.mark.parametrize('scale', [0.2, 1.0, 50.0])
def test_automatic_threshold_fits_the_fields_own_silhouette_at_any_scale(scale):
    """A ball whose density falls off softly: the half-opaque rim of its shadow is known from the integral."""
    density = lambda p: 20.0 * scale * torch.exp(-(p.norm(dim=-1) ** 2) / (2 * 0.15**2))  # noqa: E731
    grid = sample_grid(density, bound=BOUND, resolution=64, device='cpu', batch=1 << 16)
    through_centre = 20.0 * scale * 0.15 * np.sqrt(2 * np.pi)  # optical depth of a chord at distance 0
    rim = 0.15 * np.sqrt(2 * np.log(through_centre / np.log(2)))  # where the chord's optical depth is ln 2
    expected = 20.0 * scale * np.exp(-(rim**2) / (2 * 0.15**2))
    found = auto_threshold(grid, 2 * BOUND / 63)
    radius = 0.15 * np.sqrt(2 * np.log(20.0 * scale / found))
    assert abs(radius - rim) < 2 * BOUND / 63, (found, expected)


def test_explicit_threshold_moves_the_surface_where_it_says():
    ball = lambda p: 100 * torch.exp(-2 * p.norm(dim=-1))  # noqa: E731
    mesh = extract_mesh(ball, position_color, bound=BOUND, resolution=RESOLUTION, threshold=100 * np.exp(-2 * 0.6))
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 0.6, atol=0.1 * VOXEL)


def test_floaters_and_cavities_are_left_out():
    def scene(points):
        shell = sphere(points).maximum(-(sphere(points) + 0.2))  # hollow: outer radius 0.5, inner 0.3
        floater = (points - torch.tensor([-0.9, 0.9, 0.9])).norm(dim=-1) - 0.06
        second = (points - torch.tensor([-0.7, 0.5, -0.5])).norm(dim=-1) - 0.3
        return shell.minimum(floater).minimum(second)

    mesh = extract(scene)
    assert volume(mesh) == pytest.approx(4 / 3 * np.pi * (0.5**3 + 0.3**3), rel=0.12)
    assert (
        distance_of_vertices(
            mesh, lambda p: sphere(p).minimum((p - torch.tensor([-0.7, 0.5, -0.5])).norm(dim=-1) - 0.3)
        )
        < VOXEL
    )
    assert len(extract(scene, min_share=0.0).vertices) > len(mesh.vertices)


def porous(points):
    """A ball of radius 0.7 with pores of about three corners from its surface to its middle."""
    ball, waves = points.norm(dim=-1) - 0.7, (points * (2 * np.pi / 0.3)).cos().mean(-1)
    return ball.maximum(0.05 * (waves - 0.1))  # both sides of the labyrinth hang together


def test_pores_that_nobody_sees_are_filled():
    mesh = extract(porous)
    grid = np.log(
        np.clip(sample_grid(solid(porous), bound=BOUND, resolution=RESOLUTION, device='cpu', batch=1 << 18), 1, None)
    )
    everything, _, _, _ = marching_cubes(grid, np.log(200))
    assert len(mesh.vertices) < 0.6 * len(everything)
    assert np.linalg.norm(mesh.vertices, axis=1).min() > 0.7 - 4 * VOXEL  # no wall within
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.7, abs=VOXEL)


def test_noise_of_the_density_does_not_roughen_the_surface():
    noisy = lambda p: 400 * torch.exp(-10 * sphere(p) + 0.3 * torch.randn(len(p), generator=seeded()))  # noqa: E731
    mesh = extract_mesh(noisy, position_color, bound=BOUND, resolution=RESOLUTION, threshold=400.0)
    off = sphere(torch.from_numpy(mesh.vertices))
    assert off.std() < 0.03 / 2 and abs(off.mean()) < 0.1 * VOXEL  # 0.3 / 10: what the noise alone would move


def test_smoothing_leaves_a_small_ball_as_large_as_it_is():
    """A plain blur of 1.5 corners would shrink it by 0.18 voxels."""
    ball = lambda p: 400 * torch.exp(-10 * (p.norm(dim=-1) - 0.25))  # noqa: E731
    mesh = extract_mesh(ball, position_color, bound=BOUND, resolution=128, threshold=400.0)
    assert abs(np.linalg.norm(mesh.vertices, axis=1).mean() - 0.25) < 0.03 * 2 * BOUND / 127


def seeded():
    return torch.Generator().manual_seed(0)


def test_an_object_cut_by_the_box_is_closed():
    mesh = extract(lambda p: p.norm(dim=-1) - 5.0)  # solid everywhere
    assert volume(mesh) == pytest.approx((2 * BOUND) ** 3, rel=0.15)
    assert np.abs(mesh.vertices).max() <= BOUND + VOXEL


def test_any_batch_gives_the_same_grid():
    one = sample_grid(asymmetric, bound=BOUND, resolution=9, device='cpu', batch=10**6)
    many = sample_grid(asymmetric, bound=BOUND, resolution=9, device='cpu', batch=7)
    np.testing.assert_array_equal(one, many)
    where = torch.tensor([[-BOUND, BOUND, -BOUND + 2 * BOUND * 3 / 8]])
    assert one[0, 8, 3] == pytest.approx(asymmetric(where).item(), abs=1e-6)  # indexed [x, y, z]


def test_glb_colours_are_linear_light_and_read_back_as_display_values(tmp_path):
    """glTF COLOR_0 is linear: display 0.5 must stand in the file as ((0.5 + 0.055) / 1.055) ^ 2.4."""
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]), np.full((3, 3), 0.5, np.float32))
    raw = save_mesh(mesh, tmp_path / 'out.glb').read_bytes()
    length = struct.unpack('<I', raw[12:16])[0]
    tree, binary = json.loads(raw[20 : 20 + length]), raw[20 + length + 8 :]
    primitive = tree['meshes'][0]['primitives'][0]
    accessor = tree['accessors'][primitive['attributes']['COLOR_0']]
    view = tree['bufferViews'][accessor['bufferView']]
    stored = np.frombuffer(binary, np.float32, 9, view['byteOffset'])
    np.testing.assert_allclose(stored, ((0.5 + 0.055) / 1.055) ** 2.4, rtol=1e-6)
    surface = tree['materials'][primitive['material']]['pbrMetallicRoughness']
    assert surface == {
        'metallicFactor': 0,
        'roughnessFactor': ROUGHNESS,
    }  # no texture: it would be multiplied with COLOR_0
    np.testing.assert_allclose(load_mesh(tmp_path / 'out.glb').vertex_colors, 0.5, atol=1e-6)


def test_trimesh_sees_the_colours_of_a_glb(tmp_path):
    mesh = extract(asymmetric)
    path = save_mesh(mesh, tmp_path / 'out.glb')
    (loaded,) = trimesh.load(path).geometry.values()
    np.testing.assert_allclose(loaded.vertices, mesh.vertices)
    colors = linear_to_srgb(loaded.visual.vertex_attributes['color'])
    assert len(np.unique(colors, axis=0)) > 100
    np.testing.assert_allclose(colors, mesh.vertex_colors, atol=1e-5)


def test_srgb_curves_are_inverse_and_monotonic():
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)
    assert (np.diff(srgb_to_linear(values)) > 0).all()


def test_refuses_other_suffixes_and_leaves_no_half_file(tmp_path, monkeypatch):
    mesh = extract(sphere, resolution=8)
    with refusal('mesh file', str(tmp_path / 'out.3ds'), 'mesh_fname=mesh.glb'):
        save_mesh(mesh, tmp_path / 'out.3ds')
    path = save_mesh(mesh, tmp_path / 'out.glb')
    before = path.read_bytes()

    def fail(self, content):
        open(self, 'wb').write(content[:100])
        raise OSError('disk full')

    monkeypatch.setattr('pathlib.Path.write_bytes', fail)
    with pytest.raises(OSError, match='disk full'):
        save_mesh(mesh, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['out.glb']
