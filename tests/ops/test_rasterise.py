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

"""Rasterising: against a loop over every face and pixel, and the native backend against the reference."""

import pytest
import torch
from meshes import sphere, to_clip
from refusals import refusal

from nemo_dreamfusion.ops.rasterise import (
    barycentrics_backward_op,
    barycentrics_op,
    interpolate,
    interpolate_backward_op,
    interpolate_op,
    rasterise,
    visible_op,
)

pytestmark = pytest.mark.unit

BACKENDS = pytest.mark.parametrize('name', ['reference', 'native'])
FULL = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.0, 1.0]])  # covers the image
ONE = torch.tensor([[0, 1, 2]])


def soup(n_faces, size, dtype=torch.float32):
    """Separate random triangles in front of the camera, at any depth, of any winding."""
    middle = torch.rand(n_faces, 1, 3, dtype=dtype) * 2 - 1
    points = (middle + size * torch.randn(n_faces, 3, 3, dtype=dtype)).view(-1, 3)
    return to_clip(points), torch.arange(3 * n_faces).view(-1, 3)


def brute_force(clip, faces, height, width):
    """Every face at every pixel, in float64: by cutting the ray through the pixel with the plane of the face.

    Returns:
        The visible faces, and the pixels where a face's edge or two faces are too near to tell.
    """
    corners = clip.double()[faces]  # [F, 3, 4]
    p = ((2 * torch.arange(width) + 1 - width) / width).double()
    q = ((height - 1 - 2 * torch.arange(height)) / height).double()
    centres = torch.stack([p.expand(height, -1), q[:, None].expand(-1, width), torch.ones(height, width)], -1)
    matrix = corners[:, :, [0, 1, 3]].mT  # columns are corners
    sums = torch.linalg.solve(matrix[:, None, None], centres[None, ..., None])[..., 0]  # [F, H, W, 3]: weights / w
    depth = (sums * corners[:, None, None, :, 2]).sum(-1)
    inside = (sums >= 0).all(-1) & (depth.abs() <= 1)
    depth = torch.where(inside, depth, torch.inf)
    best, ids = depth.min(0)
    near = (sums.amin(-1).abs() < 1e-4).any(0)
    if len(faces) > 1:
        first, second = depth.topk(2, 0, largest=False).values
        near |= (second - first) < 1e-5
    return torch.where(best.isfinite(), ids, -1), near


@BACKENDS
@pytest.mark.parametrize(('n_faces', 'size'), [(1, 1.0), (40, 0.3), (300, 0.08)])
def test_ids_equal_those_of_every_face_at_every_pixel(name, n_faces, size, backend):
    backend(name)
    torch.manual_seed(n_faces)
    clip, faces = soup(n_faces, size)
    found = rasterise(clip, faces, 31, 40).face_ids[0]
    expected, near = brute_force(clip, faces, 31, 40)
    assert torch.equal(found[~near], expected[~near])
    assert near.float().mean() < 0.1 and (found >= 0).any()


@BACKENDS
def test_a_face_through_the_camera_is_drawn_where_it_is_in_front(name, backend):
    """A floor from before to behind the camera: it fills the lower half up to where z / w leaves [-1, 1]."""
    backend(name)
    torch.manual_seed(0)
    floor = torch.tensor([[-9.0, -1, -9], [9.0, -1, -9], [0, -1, 30.0]])
    clip = to_clip(floor, azimuth=0.0, elevation=0.0)
    assert (clip[:, 3] < 0).any() and (clip[:, 3] > 0).any()
    found = rasterise(clip, ONE, 24, 24)
    expected, near = brute_force(clip, ONE, 24, 24)
    assert torch.equal(found.face_ids[0][~near], expected[~near])
    assert 0.1 < (found.face_ids >= 0).float().mean() < 0.6
    assert (found.depth[found.face_ids >= 0].abs() <= 1).all()


@BACKENDS
def test_back_faces_are_seen_unless_culled(name, backend):
    backend(name)
    back = ONE.flip(1)
    assert (rasterise(FULL, back, 4, 4).face_ids == 0).all()
    assert (rasterise(FULL, back, 4, 4, cull_back_faces=True).face_ids == -1).all()
    assert (rasterise(FULL, ONE, 4, 4, cull_back_faces=True).face_ids == 0).all()


@BACKENDS
def test_of_two_equally_near_faces_the_first_is_seen(name, backend):
    backend(name)
    assert (rasterise(FULL, torch.tensor([[0, 1, 2], [1, 2, 0], [0, 1, 2]]), 5, 5).face_ids == 0).all()


@BACKENDS
def test_no_pixel_falls_between_two_faces(name, backend):
    """Two faces share the diagonal on which the pixels' centres lie; a fan has its middle on a centre."""
    backend(name)
    square = torch.tensor([[-1.0, -1, 0, 1], [1.0, -1, 0, 1], [1.0, 1, 0, 1], [-1.0, 1, 0, 1]])
    assert (rasterise(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), 64, 64).face_ids >= 0).all()
    fan = torch.cat([square, torch.tensor([[0.0, 0, 0, 1]])])
    faces = torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    assert (rasterise(fan, faces, 33, 33).face_ids >= 0).all()


@BACKENDS
def test_barycentrics_are_perspective_correct(name, backend):
    """Interpolated clip positions, divided by their w, are the pixels' centres; the depth is that of the raster."""
    backend(name)
    points, faces = sphere(300)
    clip = to_clip(points)
    raster = rasterise(clip, faces, 20, 30)
    x, y, z, w = interpolate(clip, faces, raster)[0].unbind(-1)
    seen = raster.face_ids[0] >= 0
    p, q = (2 * torch.arange(30) + 1 - 30) / 30, (19 - 2 * torch.arange(20)) / 20
    torch.testing.assert_close((x / w)[seen], p.expand(20, -1)[seen], atol=1e-5, rtol=0)
    torch.testing.assert_close((y / w)[seen], q[:, None].expand(-1, 30)[seen], atol=1e-5, rtol=0)
    torch.testing.assert_close((z / w)[seen], raster.depth[0][seen], atol=1e-5, rtol=0)
    torch.testing.assert_close(raster.barycentrics.sum(-1), (raster.face_ids >= 0).float())
    assert (x[~seen] == 0).all() and raster.depth[0][~seen].isinf().all()


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    clip, faces = soup(5, 0.5, torch.float64)
    attributes = torch.randn(15, 2, dtype=torch.float64, requires_grad=True)

    def values(positions, attributes):
        return interpolate(attributes, faces, rasterise(positions, faces, 5, 6))

    inputs = (clip.requires_grad_(), attributes)
    assert torch.autograd.gradcheck(values, inputs)
    assert torch.autograd.gradgradcheck(values, inputs)


@pytest.mark.parametrize('cull', [False, True])
@pytest.mark.parametrize('shared', [False, True])
def test_native_equals_the_reference(cull, shared, backend, relative_error):
    torch.manual_seed(0)
    points, faces = sphere(500, 0.15)
    attributes = torch.randn(*(() if shared else (2,)), len(points), 5)
    target = torch.randn(2, 33, 48, 5)
    results = []
    for name in ('native', 'reference'):
        backend(name)
        x, a = points.clone().requires_grad_(), attributes.clone().requires_grad_()
        raster = rasterise(torch.stack([to_clip(x), to_clip(0.5 * x, 2.0)]), faces, 33, 48, cull_back_faces=cull)
        values = interpolate(a, faces, raster)
        first = torch.autograd.grad((values - target).square().sum(), (x, a), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), (x, a))
        outputs = raster.face_ids, raster.depth, raster.barycentrics, values, *first, *second
        results.append([output.detach() for output in outputs])
    native, reference = results
    assert all(torch.equal(a, b) for a, b in zip(native[:3], reference[:3]))
    assert max(map(relative_error, native[3:], reference[3:])) < 1e-4


def test_the_number_of_threads_changes_no_bit(backend):
    backend('native')
    points, faces = sphere(2000, 0.1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x = points.clone().requires_grad_()
            raster = rasterise(to_clip(x), faces, 50, 50)
            values = interpolate(x, faces, raster)
            results.append((raster.face_ids, values, *torch.autograd.grad(values.square().sum(), x)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@BACKENDS
def test_what_cannot_be_seen_is_no_error(name, backend):
    backend(name)
    bad = torch.tensor([[float('nan'), 0, 0, 1], [1, 0, 0, 1], [0, float('inf'), 0, 1], [0, 0, 0, -1]])
    faces = torch.tensor([[0, 1, 2], [1, 2, 3], [3, 3, 3], [1, 1, 1]])
    raster = rasterise(torch.cat([bad, FULL]), torch.cat([faces, ONE + 4]), 6, 6)
    assert (raster.face_ids == 4).all()
    nothing = rasterise(FULL, ONE[:0], 6, 6)
    assert (nothing.face_ids == -1).all()
    assert (interpolate(torch.ones(3, 2), ONE[:0], nothing) == 0).all()


def test_registered_operators_pass_torchs_checks(needs_native, assert_opcheck):
    torch.manual_seed(0)
    clip, faces = soup(8, 0.4)
    positions, attributes = clip[None].requires_grad_(), torch.randn(1, 24, 3, requires_grad=True)
    assert_opcheck(visible_op, (positions.detach(), faces, 6, 7, False))
    raster = rasterise(clip.detach(), faces, 6, 7)
    ids, weights = raster.face_ids, raster.barycentrics.clone().requires_grad_()
    assert_opcheck(barycentrics_op, (positions, faces, ids))
    assert_opcheck(barycentrics_backward_op, (torch.randn(1, 6, 7, 3), positions.detach(), faces, ids))
    assert_opcheck(interpolate_op, (attributes, faces, ids, weights))
    inputs = (attributes.detach(), faces, ids, weights.detach())
    assert_opcheck(interpolate_backward_op, (torch.randn(1, 6, 7, 3), *inputs, [True, False]))


def test_bad_input_is_refused_with_a_way_out():
    with refusal('positions_clip', '(3, 3) of torch.float32', '[V, 4]'):
        rasterise(FULL[:, :3], ONE, 4, 4)
    with refusal('faces', '(1, 3) of torch.int32', 'of torch.int64'):
        rasterise(FULL, ONE.int(), 4, 4)
    with refusal('faces', 3, 2):
        rasterise(FULL, ONE + 1, 4, 4)
    with refusal('faces', -1, 2):
        rasterise(FULL, ONE - 1, 4, 4)
    with refusal('height', 0, 1):
        rasterise(FULL, ONE, 0, 4)
    raster = rasterise(FULL, ONE.repeat(2, 1)[1:], 4, 4)
    with refusal('raster.face_ids', 0, 'Pass the same faces'):
        interpolate(FULL, ONE[:0], raster)
    with refusal('attributes', '(2, 3, 4)', '[V, C]'):
        interpolate(FULL.expand(2, 3, 4), ONE, raster)
