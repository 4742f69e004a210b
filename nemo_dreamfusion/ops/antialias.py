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
"""Silhouettes: coverage of the pixels along a mesh's outline, and its gradient to the vertices.

Which face a pixel's centre sees has no gradient. So each edge of the outline, where it crosses the line between the centres
of two neighbouring pixels, mixes the two, as Laine et al. do (2020, https://arxiv.org/abs/2011.03277): with the crossing at
a share D of the way from the inner centre to the outer one,

- the outer pixel takes D - 1/2 of the inner one's colour where D > 1/2
- the inner pixel takes 1/2 - D of the outer one's colour elsewhere

They look for such edges at the faces that pixels see. On a fine mesh the faces along the outline are thinner than a pixel
and seldom seen, and the gradient fades (to 0.004 of the truth for a sphere of 100,000 faces). Here the edges look for their
pixels, so it does not:

1. an edge belongs to the outline when all its faces lie on one side of it in the image
2. a steep edge walks over the rows that it crosses, a flat one over the columns
3. a crossing counts where the inner pixel sees a face, the outer one sees another or none, and not in front of the edge
4. of several crossings between the same two pixels the outermost counts
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.rasterise import SMALLEST_W, as_batch, check_faces, corners_of, ordered_bits, to_pixels
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.types import RasterOutput


class Crossings(NamedTuple):
    """K places where the outline crosses the line between two neighbouring pixels."""

    inner: Tensor  # [K] int64, the pixel on the faces' side, of B H W
    outer: Tensor  # [K] int64, its neighbour beyond the edge
    ends: Tensor  # [K, 2] int64, the edge's vertices, of B V


def antialias(image: Tensor, raster: RasterOutput, positions_clip: Tensor, faces: Tensor) -> Tensor:
    """Return the image with the pixels along the outline mixed by how much of them is covered.

    Edges with an end behind the camera, and faces that cut through each other, are not smoothed.

    Args:
        image: [B, H, W, C], such as colours or the coverage ``(raster.face_ids >= 0)``.
        raster: what :func:`~nemo_dreamfusion.ops.rasterise.rasterise` returned for the same mesh.
        positions_clip: [V, 4] or [B, V, 4], as there.
        faces: [F, 3], as there.

    Returns:
        [B, H, W, C], each pixel a mean of its own and its neighbours' values with weights >= 0; differentiable with
        respect to ``image`` and ``positions_clip``.

    Raises:
        ValueError: for an image that is not of the raster's size.

    >>> from nemo_dreamfusion.ops.rasterise import rasterise
    >>> square = torch.tensor([[-2.0, -2, 0, 1], [0.1, -2, 0, 1], [0.1, 2, 0, 1], [-2, 2, 0, 1]])
    >>> faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    >>> raster = rasterise(square, faces, 1, 4)
    >>> antialias((raster.face_ids >= 0).float()[..., None], raster, square, faces).flatten()
    tensor([1.0000, 1.0000, 0.2000, 0.0000])
    """
    positions = as_batch('positions_clip', positions_clip, 4)
    check_faces(faces, positions.shape[1], raster.face_ids)
    if len(positions) != len(raster.face_ids):
        refuse('positions_clip', tuple(positions_clip.shape), f'{len(raster.face_ids)} images, as the raster has')
    if image.ndim != 4 or image.shape[:3] != raster.face_ids.shape:
        wanted = ', '.join(map(str, raster.face_ids.shape))
        refuse('image', tuple(image.shape), f'[{wanted}, C], the size of the raster')
    inputs = (positions.detach(), faces, raster.face_ids, raster.depth, raster.cull_back_faces)
    if select.backend(positions, raster.depth) != 'native':
        crossings = crossings_reference(*inputs)
    else:
        crossings = Crossings(*crossings_op(*inputs))
    return mix(image.to(torch.promote_types(image.dtype, positions.dtype)), positions, crossings)


def mix(image: Tensor, positions: Tensor, crossings: Crossings) -> Tensor:
    """Mix the pixels of each crossing; where the weights of a pixel sum to more than 1 they are scaled to 1."""
    _, height, width, channels = image.shape
    inner, outer, ends = crossings
    share = shares(positions, crossings, height, width)
    beyond = share > 0.5
    target, source = torch.where(beyond, outer, inner), torch.where(beyond, inner, outer)
    weight = (share - 0.5).abs()
    sums = weight.new_zeros(image[..., 0].numel()).index_add(0, target, weight)
    weight = weight / sums.index_select(0, target).clamp(min=1)
    flat = image.reshape(-1, channels)
    change = weight[:, None] * (flat.index_select(0, source) - flat.index_select(0, target))
    return flat.index_add(0, target, change).view(image.shape)


def shares(positions: Tensor, crossings: Crossings, height: int, width: int) -> Tensor:
    """Return where edges cross, [K] in [0, 1]: 0 at the inner pixel's centre, 1 at the outer's."""
    inner, outer, ends = crossings
    clip = positions.flatten(0, 1).index_select(0, ends.flatten()).view(-1, 2, 4)
    columns, rows = to_pixels(clip, height, width)
    sideways = (outer - inner).abs() == 1
    if width == 1:
        sideways = torch.zeros_like(sideways)
    column, row = inner % width, inner // width % height
    along = torch.where(sideways[:, None], rows, columns)  # the axis on which the edge walks
    across = torch.where(sideways[:, None], columns, rows)
    t = (torch.where(sideways, row, column) - along[:, 0]) / (along[:, 1] - along[:, 0])
    at = across[:, 0] + t * (across[:, 1] - across[:, 0])
    return (at - torch.where(sideways, column, row)) * (outer - inner).sign()


@torch.no_grad()
def crossings_reference(
    positions: Tensor, faces: Tensor, face_ids: Tensor, depth: Tensor, cull_back_faces: bool
) -> Crossings:
    """Reference implementation of the search for crossings: steps 1 to 4 of the file's head."""
    n, height, width = face_ids.shape
    ends = outline(positions, faces, height, width, cull_back_faces)
    clip = positions.flatten(0, 1)[ends]  # [E, 2, 4]
    in_sight = (clip[:, :, 3] > SMALLEST_W).all(1) & clip.isfinite().flatten(1).all(1)
    ends, clip = ends[in_sight], clip[in_sight]
    edge, pixel, step, share, z = along_edges(clip, height, width)
    inner = pixel + ends[edge, 0] // positions.shape[1] * (height * width)
    outer = inner + step
    ids, depth = face_ids.flatten(), depth.flatten()
    kept = ((ids[inner] >= 0) & (ids[inner] != ids[outer]) & (depth[outer] >= z)).nonzero()[:, 0]
    neighbour = 2 * (step.abs() == 1) + (step < 0)  # which of four
    kept = kept[outermost((inner * 4 + neighbour)[kept], share[kept], 4 * n * height * width)]
    return Crossings(inner[kept], outer[kept], ends[edge[kept]])


def along_edges(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the crossings of edges [E, 2, 4], seen or not, that lie between two pixels.

    Returns:
        The edge, the inner pixel (of H W), the step to the outer one (-1, 1, -W or W), the share D and the edge's depth.
    """
    at = torch.stack(to_pixels(clip, height, width), -1)  # [E, 2 ends, (column, row)]
    edge, line = walk(at, height, width)
    steep, at = is_steep(at)[edge], at[edge]
    along = torch.where(steep[:, None], at[:, :, 1], at[:, :, 0])  # [N, 2 ends], on the axis of the walk
    across = torch.where(steep[:, None], at[:, :, 0], at[:, :, 1])
    t = (line - along[:, 0]) / (along[:, 1] - along[:, 0])
    crossing = across[:, 0] + t * (across[:, 1] - across[:, 0])
    # The faces lie on the left where y points up: on the side of the larger column (or row) where this is true.
    larger = torch.where(steep, at[:, 1, 1] - at[:, 0, 1], at[:, 0, 0] - at[:, 1, 0]) > 0
    low = crossing.floor()
    share = torch.where(larger, low + 1 - crossing, crossing - low)
    z = clip[edge, :, 2] / clip[edge, :, 3]
    z = z[:, 0] + t * (z[:, 1] - z[:, 0])
    kept = ((low >= 0) & (low + 1 < torch.where(steep, width, height))).nonzero()[:, 0]
    edge, line, steep, larger, low, share, z = (x[kept] for x in (edge, line, steep, larger, low, share, z))
    inner = torch.where(larger, low + 1, low).long()
    pixel = torch.where(steep, line * width + inner, inner * width + line)
    return edge, pixel, torch.where(steep, 1, width) * torch.where(larger, -1, 1), share, z


def outline(positions: Tensor, faces: Tensor, height: int, width: int, cull_back_faces: bool) -> Tensor:
    """Return the edges of the outline of all images, [E, 2] of B V, with their faces on the left (y up)."""
    n, v, _ = positions.shape
    low, high, edge_of, forward = unique_edges(faces, v)
    clip = positions.flatten(0, 1)[corners_of(faces, n, v)]  # [B F, 3, 4]
    x, y = to_pixels(clip, height, width)
    x, y = x - x[:, :1], y - y[:, :1]
    area = (x[:, 2] * y[:, 1] - x[:, 1] * y[:, 2]) * clip[:, :, 3].prod(1)  # > 0: seen from the front
    facing = torch.where(area < 0, -1, 1).view(n, -1)
    counted = (facing > 0) if cull_back_faces else torch.ones_like(facing, dtype=torch.bool)
    sides = (facing * counted).repeat(1, 3) * forward
    total = facing.new_zeros(n, len(low)).index_add(1, edge_of, sides)
    count = facing.new_zeros(n, len(low)).index_add(1, edge_of, counted.long().repeat(1, 3))
    image, edge = ((total.abs() == count) & (count > 0)).nonzero(as_tuple=True)
    left = total[image, edge] > 0
    ends = torch.stack([torch.where(left, low[edge], high[edge]), torch.where(left, high[edge], low[edge])], 1)
    return ends + (image * v)[:, None]


def unique_edges(faces: Tensor, n_vertices: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the E edges, smaller and larger vertex; of each of 3 F sides its edge, and +1 or -1, its direction."""
    a, b = faces.T.flatten(), faces[:, [1, 2, 0]].T.flatten()
    keys, edge_of = torch.unique(torch.minimum(a, b) * n_vertices + torch.maximum(a, b), return_inverse=True)
    return keys // n_vertices, keys % n_vertices, edge_of, torch.where(a < b, 1, -1)


def is_steep(at: Tensor) -> Tensor:
    """Return which edges [E, 2, 2] cross more rows than columns."""
    run = (at[:, 1] - at[:, 0]).abs()
    return run[:, 1] > run[:, 0]


def walk(at: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return each row that a steep edge crosses and each column that a flat edge crosses: edges [N] and lines [N]."""
    steep = is_steep(at)
    spans = torch.where(steep[:, None], at[:, :, 1], at[:, :, 0])
    size = torch.where(steep, height, width)
    first = spans.amin(1).ceil().clamp(min=0).minimum(size).long()
    behind = spans.amax(1).ceil().clamp(min=0).minimum(size).long()
    counts = behind - first
    edge = torch.arange(len(at), device=at.device).repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return edge, first[edge] + torch.arange(len(edge), device=at.device) - start[edge]


def outermost(slot: Tensor, share: Tensor, n_slots: int) -> Tensor:
    """Return the indices of the largest share in each slot; of equal ones the last."""
    key = (ordered_bits(share) << 32) | torch.arange(len(slot), device=slot.device)
    best = key.new_full((n_slots,), -(2**63)).scatter_reduce_(0, slot, key, 'amax')
    return (best[slot] == key).nonzero()[:, 0]


@torch.library.custom_op('nemo_dreamfusion::crossings', mutates_args=())
def crossings_op(
    positions: Tensor, faces: Tensor, face_ids: Tensor, depth: Tensor, cull_back_faces: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Search for the crossings with a backend's kernels. What follows, :func:`mix`, is the same everywhere."""
    inputs = (t.contiguous() for t in (positions, faces, face_ids, depth))
    return select.kernels('antialias', positions).crossings(*inputs, cull_back_faces)


@crossings_op.register_fake
def _(positions, faces, face_ids, depth, cull_back_faces):
    n = torch.library.get_ctx().new_dynamic_size()
    return faces.new_empty(n), faces.new_empty(n), faces.new_empty(n, 2)
