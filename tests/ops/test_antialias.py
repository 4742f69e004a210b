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

"""Silhouettes: coverage and its gradient against exact areas and differences, and a fit of a shape from its masks."""

import math

import pytest
import torch
from meshes import sphere, to_clip
from refusals import refusal

from nemo_dreamfusion.ops.antialias import antialias, crossings_op, crossings_reference
from nemo_dreamfusion.ops.rasterise import rasterise

pytestmark = pytest.mark.unit

BACKENDS = pytest.mark.parametrize('name', ['reference', 'native'])
SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])


def coverage(clip, faces, height, width, **options):
    """How much of each pixel is covered, and the raster."""
    raster = rasterise(clip, faces, height, width, **options)
    seen = (raster.face_ids >= 0).to(clip.dtype)[..., None]
    return antialias(seen, raster, clip, faces)[..., 0], raster


def square(dtype=torch.float32):
    """A tilted square, [-0.5, 0.5]^2 turned by 0.3 rad about the view's axis; its area is a quarter of the image."""
    turned = 0.3 + math.pi / 2 * torch.arange(4, dtype=dtype) - 3 * math.pi / 4
    x, y = math.sqrt(0.5) * turned.cos(), math.sqrt(0.5) * turned.sin()
    return torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], -1)


def area_ratio(n_faces, resolution, bumps, supersampled=2048, step=0.01):
    """d(area) / d(scale) of a sphere's image over the quotient of differences of finely sampled images."""
    points, faces = sphere(n_faces, bumps)
    scale = torch.ones((), requires_grad=True)
    covered, _ = coverage(to_clip(points * scale), faces, resolution, resolution, cull_back_faces=True)
    (gradient,) = torch.autograd.grad(covered.sum(), scale)
    seen = [
        rasterise(to_clip(points * s), faces, supersampled, supersampled, cull_back_faces=True).face_ids >= 0
        for s in (1 - step, 1 + step)
    ]
    difference = (seen[1].sum() - seen[0].sum()) / (2 * step) * (resolution / supersampled) ** 2
    return float(gradient / difference)


@BACKENDS
@pytest.mark.parametrize('cull', [False, True])
def test_the_area_of_a_square_is_exact_and_its_gradient_too(name, cull, backend):
    """Area s^2 HW / 4, so its derivative by the scale s at 1 is HW / 2; by x and y, which move it, 0.

    Each side ends within a pixel of its true end, so the error falls with the resolution.
    """
    backend(name)
    scale, shift = torch.ones((), requires_grad=True), torch.zeros(2, requires_grad=True)
    corners = square()
    clip = torch.cat([corners[:, :2] * scale + shift, corners[:, 2:]], 1)
    covered, _ = coverage(clip, SQUARE, 256, 256, cull_back_faces=cull)
    by_scale, by_shift = torch.autograd.grad(covered.sum(), (scale, shift))
    assert covered.sum().item() == pytest.approx(256 * 256 / 4, rel=1e-3)
    assert by_scale.item() == pytest.approx(256 * 256 / 2, rel=0.01)
    assert by_shift.abs().max() < 0.01 * 256 * 256 / 2


@BACKENDS
def test_an_open_mesh_has_an_outline_on_both_its_sides(name, backend):
    """Seen from its back, half hidden, or wound without order: the same picture."""
    backend(name)
    expected, _ = coverage(square(), SQUARE, 32, 32)
    for faces in (SQUARE.flip(1), torch.stack([SQUARE[0], SQUARE[1].flip(0)])):
        torch.testing.assert_close(coverage(square(), faces, 32, 32)[0], expected)


def test_the_inner_edges_of_a_surface_change_nothing(backend):
    """The two halves of a square differ in colour: their common edge is no outline."""
    backend('reference')
    clip = square()
    raster = rasterise(clip, SQUARE, 32, 32)
    image = raster.face_ids[..., None].clamp(min=0).float()
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[13:19, 13:19] = True
    assert torch.equal(antialias(image, raster, clip, SQUARE)[0][inside], image[0][inside])
    assert image[0][inside].unique().tolist() == [0, 1]


@BACKENDS
def test_an_edge_behind_another_surface_changes_nothing(name, backend):
    """A small square behind a large one that covers the image, then before it."""
    backend(name)
    large = square() * torch.tensor([9.0, 9, 1, 1])
    faces = torch.cat([SQUARE, SQUARE + 4])
    for z, hidden in ((0.5, True), (-0.5, False)):
        small = square() + torch.tensor([0.0, 0, z, 0])
        clip = torch.cat([large, small])
        raster = rasterise(clip, faces, 32, 32)
        image = (raster.face_ids >= 2).float()[..., None]
        smoothed = antialias(image, raster, clip, faces)
        assert torch.equal(smoothed, image) == hidden
    assert smoothed.sum().item() == pytest.approx(32 * 32 / 4, rel=1e-3)


@pytest.mark.parametrize('bumps', [0.0, 0.03, 0.15])
@pytest.mark.parametrize('n_faces', [200, 1000, 5000])
def test_area_gradient_of_spheres(n_faces, bumps, backend):
    backend('native')
    low, high = (0.95, 1.06) if bumps else (0.97, 1.03)
    assert low <= area_ratio(n_faces, 256, bumps) <= high


@pytest.mark.slow
@pytest.mark.parametrize('bumps', [0.0, 0.03, 0.15])
@pytest.mark.parametrize('n_faces', [20_000, 100_000])
def test_area_gradient_of_fine_spheres(n_faces, bumps, backend):
    backend('native')
    low, high = (0.95, 1.06) if bumps else (0.97, 1.03)
    assert low <= area_ratio(n_faces, 512, bumps, 4096) <= high


@BACKENDS
def test_mixed_pixels_stay_between_their_neighbours(name, backend):
    """Also where several edges cross near one pixel: slivers and points, many of them thinner than a pixel."""
    backend(name)
    torch.manual_seed(0)
    clip = to_clip((torch.rand(200, 1, 3) * 2 - 1 + 0.06 * torch.randn(200, 3, 3)).view(-1, 3))
    covered, raster = coverage(clip, torch.arange(600).view(-1, 3), 40, 40)
    assert covered.min() >= -1e-6 and covered.max() <= 1 + 1e-6
    assert (covered != (raster.face_ids >= 0)).any()


def test_gradients_are_those_of_differences():
    torch.manual_seed(0)
    points, faces = sphere(60, 0.1)  # even sizes: no vertex lies on a line between centres, where there is a kink
    clip = to_clip(points.double()).requires_grad_()
    raster = rasterise(clip.detach(), faces, 8, 10)
    image = torch.rand(1, 8, 10, 1, dtype=torch.float64, requires_grad=True)

    def smoothed(image, clip):
        return antialias(image, raster, clip, faces)

    assert torch.autograd.gradcheck(smoothed, (image, clip))


@pytest.mark.parametrize('cull', [False, True])
def test_native_finds_the_crossings_of_the_reference(cull, needs_native):
    points, faces = sphere(2000, 0.15)
    positions = torch.stack([to_clip(points), to_clip(0.5 * points, 2.0)])
    positions[1, :3, 3] = -1.0  # behind the camera
    raster = rasterise(positions, faces, 40, 61, cull_back_faces=cull)
    inputs = (positions, faces, raster.face_ids, raster.depth, cull)
    found, expected = crossings_op(*inputs), crossings_reference(*inputs)
    assert len(expected.inner) > 100
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_more_crossings_than_expected_are_all_found(needs_native):
    """Hundreds of separate faces in a small image: more than the kernel has room for at first."""
    torch.manual_seed(0)
    clip = to_clip((torch.rand(3000, 1, 3) * 2 - 1 + 0.05 * torch.randn(3000, 3, 3)).view(-1, 3))[None]
    faces = torch.arange(9000).view(-1, 3)
    raster = rasterise(clip, faces, 48, 48)
    inputs = (clip, faces, raster.face_ids, raster.depth, False)
    found, expected = crossings_op(*inputs), crossings_reference(*inputs)
    assert len(found[0]) > 8 * (48 + 48)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_the_number_of_threads_changes_no_bit(backend):
    backend('native')
    points, faces = sphere(2000, 0.15)
    image = torch.rand(2, 64, 64, 3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x, colours = points.clone().requires_grad_(), image.clone().requires_grad_()
            clip = torch.stack([to_clip(x), to_clip(x, 2.0)])
            raster = rasterise(clip, faces, 64, 64)
            smoothed = antialias(colours, raster, clip, faces)
            results.append((smoothed.detach(), *torch.autograd.grad(smoothed.square().sum(), (x, colours))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_a_shape_is_fitted_to_its_masks():
    """A sphere of 5000 faces, most of them thinner than a pixel at the outline, becomes the ellipsoid of six masks."""
    points, faces = sphere(5000)
    points = 0.9 * points
    truth = torch.tensor([[0.9, 0.2, 0.0], [0.0, 0.6, 0.1], [0.1, 0.0, 1.1]])
    views = [(0.0, 0.0), (1.57, 0.0), (0.8, 0.6), (2.4, -0.6), (0.0, 1.4), (-0.8, 0.2)]

    def masks(matrix):
        clip = torch.stack([to_clip(points @ matrix.T, *view) for view in views])
        return coverage(clip, faces, 48, 48, cull_back_faces=True)[0]

    target, matrix = masks(truth).detach(), torch.eye(3).requires_grad_()
    optimizer = torch.optim.Adam([matrix], lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        (masks(matrix) - target).square().mean().backward()
        optimizer.step()
    found = masks(matrix).detach()
    assert torch.minimum(found, target).sum() / torch.maximum(found, target).sum() > 0.985
    # A matrix and its turned ones give one ellipsoid: compare M M^T.
    torch.testing.assert_close(matrix.detach() @ matrix.detach().T, truth @ truth.T, atol=0.03, rtol=0)


def test_the_registered_operator_passes_torchs_checks(needs_native, assert_opcheck):
    clip = square()[None]
    raster = rasterise(clip, SQUARE, 8, 9)
    assert_opcheck(crossings_op, (clip, SQUARE, raster.face_ids, raster.depth, False))


def test_bad_input_is_refused_with_a_way_out():
    clip = square()
    raster = rasterise(clip, SQUARE, 8, 9)
    with refusal('image', '(1, 9, 8, 3)', '[1, 8, 9, C]'):
        antialias(torch.rand(1, 9, 8, 3), raster, clip, SQUARE)
    with refusal('positions_clip', '(2, 4, 4)', '1 images'):
        antialias(torch.rand(1, 8, 9, 3), raster, clip.expand(2, 4, 4), SQUARE)
    with refusal('faces', 5, 3):
        antialias(torch.rand(1, 8, 9, 3), raster, clip, SQUARE + 2)
