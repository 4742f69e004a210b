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

"""The z-buffer against single triangles that can be counted by hand."""

import numpy as np
import pytest
import torch
from meshes import texels_of_each

from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.atlas import triangle_atlas
from nemo_dreamfusion.export.mesh_files import Mesh
from nemo_dreamfusion.export.raster import find_covered, rasterize

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def camera(height=8, width=8):
    """At z = 2, looking at the origin; the image's half height at the origin is 2 * tan(45 deg) = 2."""
    return OrbitCameras(views=1, elevation_deg=0, distance=2.0, fov_deg=90, height=height, width=width).all()


def square(z, half, color, centre=(0.0, 0.0)):
    x, y = centre
    corners = [[x - half, y - half, z], [x + half, y - half, z], [x + half, y + half, z], [x - half, y + half, z]]
    return corners, [[0, 1, 2], [0, 2, 3]], [color] * 4


def mesh(*parts):
    vertices, faces, colors = [], [], []
    for corners, triangles, color in parts:
        faces += [[i + len(vertices) for i in triangle] for triangle in triangles]
        vertices += corners
        colors += color
    return Mesh(
        np.array(vertices, np.float32).reshape(-1, 3),
        np.array(faces, int).reshape(-1, 3),
        np.array(colors).reshape(-1, 3),
    )


def test_a_square_covers_the_pixels_it_should():
    """Half side 1 at depth 2 covers the middle half of the image; shifted to +x +y, the upper right quarter."""
    image, opacity = rasterize(mesh(square(0, 1.0, RED)), camera())
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(opacity[0, ..., 0], expected)
    assert torch.equal(image[0, 3, 3], torch.tensor(RED)) and torch.equal(image[0, 0, 0], torch.ones(3))
    corner = rasterize(mesh(square(0, 1.0, RED, (1.0, 1.0))), camera())[1]
    assert corner[0, :4, 4:].min() == 1 and corner.sum() == 16


def test_wide_images_have_square_pixels():
    opacity = rasterize(mesh(square(0, 1.0, RED)), camera(8, 16))[1]
    assert opacity[0, 2:6, 6:10].min() == 1 and opacity.sum() == 16


def test_the_nearer_square_hides_the_other_in_any_order():
    near, far = square(0.5, 0.75, RED), square(-0.5, 5.0, BLUE)
    for parts in ((near, far), (far, near)):
        image, opacity = rasterize(mesh(*parts), camera())
        assert torch.equal(image[0, 4, 4], torch.tensor(RED)) and torch.equal(image[0, 0, 0], torch.tensor(BLUE))
        assert opacity.min() == 1


def test_colours_are_interpolated_in_perspective():
    """A floor from near (z = 1) to far (z = -4), red to blue: the colour tells the true place, not the pixel's."""
    floor = (
        [[-9, -0.5, 1], [9, -0.5, 1], [9, -0.5, -4], [-9, -0.5, -4]],
        [[0, 1, 2], [0, 2, 3]],
        [RED, RED, BLUE, BLUE],
    )
    image, opacity = rasterize(mesh(floor), camera(64, 64), samples=1)
    for row in (36, 40, 44):
        depth = 0.5 / ((row + 0.5 - 32) / 32)  # where the ray through this row meets y = -0.5
        share = (depth - 1) / 5  # 0 at z = 1, 1 at z = -4
        assert opacity[0, row, 32] == 1
        torch.testing.assert_close(image[0, row, 32], torch.tensor([1 - share, 0.0, share]), atol=1e-5, rtol=0)


@pytest.mark.parametrize('size', [64, 100, 300, 1000, 1024])
@pytest.mark.parametrize('kind', ['grid', 'random'])
def test_every_texel_whose_centre_lies_on_a_triangle_is_found(size, kind):
    """A grid atlas has its corners on centres of texels, so that centres lie on edges."""
    random = np.random.default_rng(0)
    count = size // 4
    faces = np.arange(3 * count).reshape(-1, 3)
    if kind == 'grid':
        atlas = triangle_atlas(random.random((3 * count, 3), np.float32), faces, size)
        uv, faces = atlas.uv, atlas.faces
    else:
        uv = (random.random((count, 1, 2)) + 0.1 * random.random((count, 3, 2))).reshape(-1, 2).astype(np.float32)
    wanted = np.unique(np.concatenate(list(texels_of_each(np.round(uv.astype(float) * size, 3), faces, size))))
    texels, face, share = find_covered(uv, faces, size)
    if kind == 'grid':
        assert np.array_equal(texels, wanted)
    else:  # one that lies on an edge to a rounding error of float32 may be there or not
        assert len(np.setxor1d(texels, wanted)) <= 1e-4 * len(wanted) + 1
    places = (share[..., None] * uv[faces[face]]).sum(1) * size
    np.testing.assert_allclose(places, np.stack([texels % size, texels // size], 1) + 0.5, atol=0.01)


def test_a_vertex_that_no_triangle_has_does_not_matter():
    seen = mesh(square(0, 1.0, RED))
    far = Mesh(
        np.concatenate([seen.vertices, [[np.nan, 0, 0], [1e9, 0, 0]]]).astype(np.float32),
        seen.faces,
        np.concatenate([seen.vertex_colors, np.zeros((2, 3))]),
    )
    assert torch.equal(rasterize(far, camera())[1], rasterize(seen, camera())[1])


def test_nothing_to_see():
    behind = rasterize(mesh(square(3.0, 1.0, RED)), camera())
    empty = rasterize(mesh(), camera(), background=BLUE)
    assert behind[1].sum() == 0 and empty[1].sum() == 0
    assert torch.equal(empty[0], torch.tensor(BLUE).expand(1, 8, 8, 3))
