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
"""Triangle meshes to images: which face each pixel sees, and attributes of vertices interpolated over it.

The edge functions are taken in homogeneous coordinates (Olano and Greer, "Triangle scan conversion using 2D homogeneous
coordinates", 1997). With corner i of a face at (x_i, y_i, z_i, w_i) in clip space and the pixel's centre at (p, q) in
[-1, 1]^2, let u_i = x_i - p w_i and v_i = y_i - q w_i. Then

- e_0 = u_1 v_2 - u_2 v_1, and e_1, e_2 with the indices turned round
- the centre is inside where no two of them differ in sign
- the perspective-correct weight of corner i is e_i / (e_0 + e_1 + e_2)

Faces are not cut at the near plane: a pixel is left out where w <= 0 or z / w is outside of [-1, 1]. A face that touches
a pixel's centre with its edge counts as inside, so no pixel falls between two neighbours.

Images have row 0 at the top; y of the clip space points up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.parts.checks import check_positive, refuse
from nemo_dreamfusion.parts.types import RasterOutput

# Pairs of a face and a pixel that the reference holds at once: bounds its memory to a few hundred MB.
CHUNK_ELEMENTS = 2**21
# A corner with a smaller w lies behind the camera: a face with such a corner is looked for in the whole image.
SMALLEST_W = 1e-6
# Pixels by which a face's box is widened, more than its corners' rounding errors: no pixel on an edge is lost.
SLACK = 1 / 64
EMPTY = 2**63 - 1  # the key of a pixel without a face


def rasterise(
    positions_clip: Tensor, faces: Tensor, height: int, width: int, *, cull_back_faces: bool = False
) -> RasterOutput:
    """Return what B images of a mesh show at the centres of their pixels.

    The nearest face wins, of equally near ones that with the smallest index: the result is deterministic.

    Args:
        positions_clip: [V, 4] for one image or [B, V, 4], the vertices in clip space (x, y, z, w): the camera sees
            -w <= x, y, z <= w with w > 0, smaller z / w is nearer.
        faces: [F, 3] int64, indices of vertices; the front of a face is where they run counterclockwise.
        height: H, pixels.
        width: W, pixels.
        cull_back_faces: leave out the faces that are seen from their back. Half the work for a closed mesh.

    Returns:
        ``barycentrics`` is differentiable with respect to ``positions_clip``; which face is visible is not, see
        :func:`nemo_dreamfusion.ops.antialias.antialias`.

    Raises:
        ValueError: for positions or faces of another shape or type, or a size that is not positive.

    >>> triangle = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [1.0, -1.0, 0.0, 1.0], [-1.0, 1.0, 0.0, 1.0]])
    >>> raster = rasterise(triangle, torch.tensor([[0, 1, 2]]), 4, 4)
    >>> raster.face_ids
    tensor([[[ 0, -1, -1, -1],
             [ 0,  0, -1, -1],
             [ 0,  0,  0, -1],
             [ 0,  0,  0,  0]]])
    >>> raster.barycentrics[0, 3, 0]
    tensor([0.7500, 0.1250, 0.1250])
    """
    positions = as_batch('positions_clip', positions_clip, 4)
    check_faces(faces, positions.shape[1])
    check_positive('height', height, integer=True)
    check_positive('width', width, integer=True)
    if select.backend(positions) != 'native':
        face_ids, depth = visible_reference(positions.detach(), faces, height, width, cull_back_faces)
        barycentrics = barycentrics_reference(positions, faces, face_ids)
    else:
        face_ids, depth = visible_op(positions.detach(), faces, height, width, cull_back_faces)
        barycentrics = barycentrics_op(positions, faces, face_ids)
    return RasterOutput(face_ids, barycentrics, depth, cull_back_faces)


def interpolate(attributes: Tensor, faces: Tensor, raster: RasterOutput) -> Tensor:
    """Return attributes of the vertices at each pixel, 0 where there is no face.

    Args:
        attributes: [V, C] or [B, V, C].
        faces: [F, 3] int64, those that were rasterised.
        raster: what :func:`rasterise` returned.

    Returns:
        [B, H, W, C], differentiable with respect to ``attributes`` and, through the barycentrics, the vertices.

    Raises:
        ValueError: for attributes of another shape.

    >>> triangle = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [1.0, -1.0, 0.0, 1.0], [-1.0, 1.0, 0.0, 1.0]])
    >>> faces = torch.tensor([[0, 1, 2]])
    >>> interpolate(triangle[:, :2], faces, rasterise(triangle, faces, 2, 2))[0, 1]
    tensor([[-0.5000, -0.5000],
            [ 0.5000, -0.5000]])
    """
    values = as_batch('attributes', attributes)
    check_faces(faces, values.shape[1], raster.face_ids)
    if len(values) not in (1, len(raster.face_ids)):
        refuse('attributes', tuple(attributes.shape), f'[V, C] or [{len(raster.face_ids)}, V, C], one row per image')
    values = values.to(torch.promote_types(values.dtype, raster.barycentrics.dtype))
    if select.backend(values, raster.barycentrics) != 'native':
        return interpolate_reference(values, faces, raster.face_ids, raster.barycentrics)
    return interpolate_op(values, faces, raster.face_ids, raster.barycentrics)


def as_batch(name: str, values: Tensor, channels: int | None = None) -> Tensor:
    """Return [B, V, C] in float32 at least; [V, C] is a batch of one."""
    wanted = 'C' if channels is None else channels
    if values.ndim not in (2, 3) or not values.is_floating_point() or channels not in (None, values.shape[-1]):
        refuse(name, f'{tuple(values.shape)} of {values.dtype}', f'[V, {wanted}] or [B, V, {wanted}] of floats')
    batch = values if values.ndim == 3 else values[None]
    return batch.to(torch.promote_types(values.dtype, torch.float32))


def check_faces(faces: Tensor, n_vertices: int, face_ids: Tensor | None = None) -> None:
    """Refuse faces that are not [F, 3] of int64, or (on the CPU) of vertices that there are not, or fewer than the ids."""
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        refuse('faces', f'{tuple(faces.shape)} of {faces.dtype}', '[F, 3] of torch.int64')
    if faces.is_cuda:  # the host would have to wait, and there indexing checks
        return
    if faces.numel() and not (0 <= (low := int(faces.min())) and (high := int(faces.max())) < n_vertices):
        refuse(
            'faces', low if low < 0 else high, f'an index from 0 to {n_vertices - 1}: there are {n_vertices} vertices'
        )
    if face_ids is not None and face_ids.numel() and int(face_ids.max()) >= len(faces):
        refuse(
            'raster.face_ids', int(face_ids.max()), f'below {len(faces)}, the number of faces', 'Pass the same faces.'
        )


def corners_of(faces: Tensor, n_images: int, n_vertices: int) -> Tensor:
    """Return the corners of every image's faces, [B F, 3], as rows of the flattened [B V, C]."""
    first = torch.arange(n_images, device=faces.device) * n_vertices
    return (first[:, None, None] + faces).flatten(0, 1)


def to_pixels(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return column and row (fractions; a pixel's centre is whole) of points [..., 4] in clip space."""
    x, y, _, w = clip.unbind(-1)
    return (x / w + 1) * (0.5 * width) - 0.5, (1 - y / w) * (0.5 * height) - 0.5


def pixel_boxes(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the pixels that faces [N, 3, 4] may cover: first and last (column, row), int64 [N, 2], [N, 2]."""
    at = torch.stack(to_pixels(clip, height, width), -1)  # [N, 3, 2]
    size = torch.tensor([width, height], device=clip.device, dtype=clip.dtype)
    in_front = clip[:, :, 3] > SMALLEST_W
    first = torch.where(in_front.all(1, keepdim=True), (at.amin(1) - SLACK).ceil(), 0.0).clamp(min=0)
    last = torch.where(in_front.all(1, keepdim=True), (at.amax(1) + SLACK).floor(), size - 1).minimum(size - 1)
    sound = at.isfinite().flatten(1).all(1, keepdim=True) | ~in_front.all(1, keepdim=True)
    visible = in_front.any(1, keepdim=True) & (first <= last).all(1, keepdim=True) & sound
    return torch.where(visible, first, 0).long(), torch.where(visible, last, -1).long()


def edge_functions(clip: Tensor, column: Tensor, row: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """Return e_0, e_1, e_2 of N faces [N, 3, 4] at the centres of N pixels."""
    p = (2 * column + 1 - width).to(clip.dtype) / width
    q = (height - 1 - 2 * row).to(clip.dtype) / height
    x, y, _, w = clip.unbind(-1)
    u, v = (x - p[:, None] * w).unbind(1), (y - q[:, None] * w).unbind(1)
    return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]


@torch.no_grad()
def visible_reference(
    positions: Tensor, faces: Tensor, height: int, width: int, cull_back_faces: bool
) -> tuple[Tensor, Tensor]:
    """Reference implementation of the visibility: face ids and depth [B, H, W].

    Each face is tested at every pixel of its box; a pixel keeps the smallest key of depth and face.
    """
    (n, v, _), f = positions.shape, len(faces)
    corners = corners_of(faces, n, v)
    first, last = pixel_boxes(positions.flatten(0, 1)[corners], height, width)
    best = faces.new_full((n * height * width,), EMPTY)
    for face, column, row in pairs_in_boxes(first, last):
        clip = positions.flatten(0, 1)[corners[face]]
        e = edge_functions(clip, column, row, height, width)
        z, w = (e[0] * c[:, 0] + e[1] * c[:, 1] + e[2] * c[:, 2] for c in (clip[:, :, 2], clip[:, :, 3]))
        depth = z / w
        front = (e[0] >= 0) & (e[1] >= 0) & (e[2] >= 0) & (w > 0)
        back = (e[0] <= 0) & (e[1] <= 0) & (e[2] <= 0) & (w < 0)
        kept = front if cull_back_faces else front | back
        kept = (kept & (depth.abs() <= 1)).nonzero()[:, 0]
        pixel = (face // f * height + row) * width + column
        best.scatter_reduce_(0, pixel[kept], (ordered_bits(depth[kept]) << 32) | (face[kept] % f), 'amin')
    best = best.view(n, height, width)
    depth = from_ordered_bits(best >> 32).to(positions.dtype)
    return torch.where(best == EMPTY, -1, best & 0xFFFFFFFF), torch.where(best == EMPTY, torch.inf, depth)


def pairs_in_boxes(first: Tensor, last: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield every (box, column, row) with the pixel in the box, some boxes at a time."""
    size = (last - first + 1).clamp(min=0)
    counts = size.prod(1)
    boxes = counts.nonzero()[:, 0]
    ends = counts[boxes].cumsum(0)
    start, done = 0, 0
    while start < len(boxes):
        stop = max(int(torch.searchsorted(ends, done + CHUNK_ELEMENTS, right=True)), start + 1)
        part, total = boxes[start:stop], int(ends[stop - 1]) - done
        box = part.repeat_interleave(counts[part], output_size=total)
        before = (ends[start:stop] - counts[part]).repeat_interleave(counts[part], output_size=total) - done
        k = torch.arange(total, device=first.device) - before
        yield box, first[box, 0] + k % size[box, 0], first[box, 1] + k // size[box, 0]
        start, done = stop, int(ends[stop - 1])


def ordered_bits(numbers: Tensor) -> Tensor:
    """Return int64 in the range of int32, ordered as the numbers are in float32."""
    bits = numbers.float().add(0.0).view(torch.int32)  # -0 becomes 0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def from_ordered_bits(bits: Tensor) -> Tensor:
    """Return the float32 numbers of :func:`ordered_bits`."""
    bits = bits.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


def seen_corners(faces: Tensor, face_ids: Tensor, n_vertices: int) -> tuple[Tensor, Tensor]:
    """Return the pixels with a face, [K] of B H W, and its corners, [K, 3] of B V; of V where n_vertices is 0."""
    pixel = (face_ids.flatten() >= 0).nonzero()[:, 0]
    image = pixel // math.prod(face_ids.shape[1:])
    return pixel, faces[face_ids.flatten()[pixel]] + (image * n_vertices)[:, None]


def barycentrics_reference(positions: Tensor, faces: Tensor, face_ids: Tensor) -> Tensor:
    """Reference implementation of the barycentrics [B, H, W, 3] of the visible faces."""
    n, height, width = face_ids.shape
    pixel, corners = seen_corners(faces, face_ids, positions.shape[1])
    clip = positions.flatten(0, 1).index_select(0, corners.flatten()).view(-1, 3, 4)
    e = torch.stack(edge_functions(clip, pixel % width, pixel // width % height, height, width), -1)
    weights = e / (e[:, :1] + e[:, 1:2] + e[:, 2:])
    return weights.new_zeros(n * height * width, 3).index_copy(0, pixel, weights).view(n, height, width, 3)


def interpolate_reference(attributes: Tensor, faces: Tensor, face_ids: Tensor, barycentrics: Tensor) -> Tensor:
    """Reference implementation of :func:`interpolate`."""
    shared = len(attributes) == 1
    pixel, corners = seen_corners(faces, face_ids, 0 if shared else attributes.shape[1])
    at_corners = attributes.flatten(0, 1).index_select(0, corners.flatten()).view(len(pixel), 3, attributes.shape[2])
    weights = barycentrics.reshape(-1, 3).index_select(0, pixel)
    values = (weights[:, :, None] * at_corners).sum(1)
    result = values.new_zeros(face_ids.numel(), attributes.shape[2]).index_copy(0, pixel, values)
    return result.view(*face_ids.shape, attributes.shape[2])


# The operators torch.ops.nemo_dreamfusion.*. Gradients of gradients go through the reference implementation.


@torch.library.custom_op('nemo_dreamfusion::visible', mutates_args=())
def visible_op(
    positions: Tensor, faces: Tensor, height: int, width: int, cull_back_faces: bool
) -> tuple[Tensor, Tensor]:
    visible = select.kernels('rasterise', positions).visible
    return visible(positions.contiguous(), faces.contiguous(), height, width, cull_back_faces)


@visible_op.register_fake
def _(positions, faces, height, width, cull_back_faces):
    shape = (positions.shape[0], height, width)
    return faces.new_empty(shape), positions.new_empty(shape)


@torch.library.custom_op('nemo_dreamfusion::barycentrics', mutates_args=())
def barycentrics_op(positions: Tensor, faces: Tensor, face_ids: Tensor) -> Tensor:
    inputs = (t.contiguous() for t in (positions, faces, face_ids))
    return select.kernels('rasterise', positions).barycentrics_forward(*inputs)


@barycentrics_op.register_fake
def _(positions, faces, face_ids):
    return positions.new_empty((*face_ids.shape, 3))


@torch.library.custom_op('nemo_dreamfusion::barycentrics_backward', mutates_args=())
def barycentrics_backward_op(grad: Tensor, positions: Tensor, faces: Tensor, face_ids: Tensor) -> Tensor:
    inputs = (t.contiguous() for t in (grad, positions, faces, face_ids))
    return select.kernels('rasterise', positions).barycentrics_backward(*inputs)


@barycentrics_backward_op.register_fake
def _(grad, positions, faces, face_ids):
    return positions.new_empty(positions.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _barycentrics_gradients(ctx, grad):
    positions, faces, face_ids = ctx.saved_tensors
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        weights = barycentrics_reference(positions, faces, face_ids)
        return torch.autograd.grad(weights, positions, grad, create_graph=True)[0], None, None
    return barycentrics_backward_op(grad, positions, faces, face_ids), None, None


barycentrics_op.register_autograd(_barycentrics_gradients, setup_context=_save)


@torch.library.custom_op('nemo_dreamfusion::interpolate', mutates_args=())
def interpolate_op(attributes: Tensor, faces: Tensor, face_ids: Tensor, barycentrics: Tensor) -> Tensor:
    inputs = (t.contiguous() for t in (attributes, faces, face_ids, barycentrics))
    return select.kernels('rasterise', attributes).interpolate_forward(*inputs)


@interpolate_op.register_fake
def _(attributes, faces, face_ids, barycentrics):
    return attributes.new_empty((*face_ids.shape, attributes.shape[2]))


@torch.library.custom_op('nemo_dreamfusion::interpolate_backward', mutates_args=())
def interpolate_backward_op(
    grad: Tensor, attributes: Tensor, faces: Tensor, face_ids: Tensor, barycentrics: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    inputs = [t.contiguous() for t in (grad, attributes, faces, face_ids, barycentrics)]
    found = select.kernels('rasterise', attributes).interpolate_backward(*inputs, tuple(needs))
    first, second = (attributes.new_empty(0) if t is None else t for t in found)  # an operator cannot return None
    return first, second


@interpolate_backward_op.register_fake
def _(grad, attributes, faces, face_ids, barycentrics, needs):
    first, second = (x.new_empty(x.shape if need else (0,)) for x, need in zip((attributes, barycentrics), needs))
    return first, second


def _interpolate_gradients(ctx, grad):
    attributes, faces, face_ids, barycentrics = ctx.saved_tensors
    needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[3]]
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        values = interpolate_reference(attributes, faces, face_ids, barycentrics)
        wanted = [x for x, need in zip((attributes, barycentrics), needs) if need]
        found = iter(torch.autograd.grad(values, wanted, grad, create_graph=True))
        results = [next(found) if need else None for need in needs]
    else:
        found = interpolate_backward_op(grad, attributes, faces, face_ids, barycentrics, needs)
        results = [x if need else None for x, need in zip(found, needs)]
    return results[0], None, None, results[1]


interpolate_op.register_autograd(_interpolate_gradients, setup_context=_save)
