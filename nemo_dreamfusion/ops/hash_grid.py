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

"""Multi-resolution hash grid: encode points by interpolating feature tables.

Müller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding" (2022), section 3,
https://arxiv.org/abs/2201.05989. Level l lays a grid of ``resolutions[l]`` cells per axis over [0, 1]^3. Each corner
of a cell has a row of the table: of its own where all corners fit (dense level), else shared by spatial hashing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.parts.checks import check_choice, check_range, refuse

PRIMES = (1, 2654435761, 805459861)  # equation (4); the first is 1 so that neighbours in x share a cache line
INTERPOLATIONS = ('linear', 'smoothstep')
COMPILED_FEATURES = (1, 2, 4, 8)  # numbers per row that the kernels are compiled for; others take the reference


@dataclass(frozen=True)
class GridLayout:
    """Where the rows of each level lie in one table [T, features]: L levels, T = offsets[L] rows.

    >>> layout = GridLayout.make(levels=2, features=2, log2_table_size=9, base_resolution=6, max_resolution=8)
    >>> layout.offsets, layout.hashed  # 7^3 = 343 corners fit into 2^9 = 512 rows, 9^3 = 729 do not
    ((0, 344, 856), (False, True))
    """

    resolutions: tuple[int, ...]  # [L], cells per axis
    offsets: tuple[int, ...]  # [L + 1], in table rows; level l owns the rows offsets[l] : offsets[l + 1]
    hashed: tuple[bool, ...]  # [L], rows shared by hashing (then their number is a power of two)
    features: int  # numbers per row
    interpolation: str  # 'linear' or 'smoothstep' (continuous first derivatives: for normals from gradients)

    @property
    def smooth(self) -> bool:
        """Whether the interpolation is 'smoothstep'."""
        return self.interpolation == 'smoothstep'

    @property
    def levels(self) -> int:
        """L."""
        return len(self.resolutions)

    @property
    def rows(self) -> int:
        """T, of all levels together."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Numbers of one encoded point, L * features."""
        return self.levels * self.features

    @classmethod
    def make(
        cls,
        levels: int,
        features: int,
        log2_table_size: int,
        base_resolution: int,
        max_resolution: int,
        interpolation: str = 'smoothstep',
    ) -> GridLayout:
        """Return the layout whose resolutions grow geometrically from base to max (equations 2 and 3).

        Args:
            levels: L.
            features: numbers per row; the compiled kernels take 1, 2, 4 or 8.
            log2_table_size: a level has 2^log2_table_size rows at most.
            base_resolution: cells per axis of the coarsest level.
            max_resolution: cells per axis of the finest level.
            interpolation: 'linear' or 'smoothstep'.

        Raises:
            ValueError: for a value out of its range.
        """
        check_choice('interpolation', interpolation, INTERPOLATIONS)
        check_range('levels', levels, 1)
        check_range('features', features, 1)
        check_range('log2_table_size', log2_table_size, 3, 30)
        check_range('base_resolution', base_resolution, 1, max_resolution, advice='Or raise max_resolution.')
        growth = (max_resolution / base_resolution) ** (1 / max(levels - 1, 1))
        # 1e-6: the last level's power may land a rounding below max_resolution
        resolutions = tuple(int(base_resolution * growth**level + 1e-6) for level in range(levels))
        offsets, hashed = [0], []
        for resolution in resolutions:
            corners = (resolution + 1) ** 3
            hashed.append(corners > 2**log2_table_size)
            rows = 2**log2_table_size if hashed[-1] else -(-corners // 8) * 8  # 8 rows: whole cache lines
            offsets.append(offsets[-1] + rows)
        return cls(resolutions, tuple(offsets), tuple(hashed), features, interpolation)


def hash_grid_encode(positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """Encode points by the interpolated rows of every level.

    Args:
        positions: [N, 3] in [0, 1]; a point outside is moved to the nearest face.
        table: [T, F], the rows of all levels.
        layout: where each level's rows lie.

    Returns:
        [N, L * F], differentiable (twice) with respect to ``table`` and ``positions``.

    Raises:
        ValueError: a tensor of another shape.

    One level of one cell interpolates between its eight corners (x grows fastest):

    >>> cell = GridLayout.make(1, 1, 3, base_resolution=1, max_resolution=1, interpolation='linear')
    >>> table = torch.tensor([[0.0], [1.0], [0.0], [1.0], [0.0], [1.0], [0.0], [1.0]])  # the x of each corner
    >>> hash_grid_encode(torch.tensor([[0.25, 0.5, 0.9], [1.0, 0.0, 0.0]]), table, cell)
    tensor([[0.2500],
            [1.0000]])
    """
    if positions.ndim != 2 or positions.shape[1] != 3:
        refuse('positions.shape', tuple(positions.shape), '[N, 3]')
    if tuple(table.shape) != (layout.rows, layout.features):
        refuse('table.shape', tuple(table.shape), f'{(layout.rows, layout.features)}, as the layout says')
    if select.backend(positions, table) == 'reference' or layout.features not in COMPILED_FEATURES:
        return hash_grid_reference(positions, table, layout)
    return hash_grid_op(positions, table, layout.resolutions, layout.offsets, layout.hashed, layout.smooth)


def hash_grid_reference(positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    """Reference implementation of :func:`hash_grid_encode`: level by level, the eight corners of the cells at once."""
    positions = positions.clamp(0, 1)
    corners = _corners(positions.device)  # [8, 3]
    encoded = []
    for level, resolution in enumerate(layout.resolutions):
        scaled = positions * resolution
        cell = scaled.detach().long().clamp(0, resolution - 1)  # [N, 3]; a point on the far face is in the last cell
        fraction = scaled - cell
        if layout.smooth:
            fraction = fraction * fraction * (3 - 2 * fraction)  # S1 of the paper's appendix A
        weights = torch.where(corners.bool(), fraction[:, None], 1 - fraction[:, None]).prod(-1)  # [N, 8]
        rows = layout.offsets[level] + corner_rows(cell[:, None] + corners, layout, level)  # [N, 8]
        features = table.index_select(0, rows.flatten()).view(-1, 8, layout.features)
        encoded.append((weights[..., None] * features).sum(1))
    return torch.cat(encoded, dim=1).to(table.dtype)


def corner_rows(corner: Tensor, layout: GridLayout, level: int) -> Tensor:
    """Return the row, within its level, of each integer grid corner: [..., 3] -> [...]."""
    x, y, z = corner.unbind(-1)
    if not layout.hashed[level]:
        side = layout.resolutions[level] + 1
        return x + side * (y + side * z)
    size = layout.offsets[level + 1] - layout.offsets[level]
    return ((x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) & (size - 1)


def _corners(device: torch.device) -> Tensor:
    """Return the eight corners of the unit cell, x fastest: [8, 3] of 0 and 1."""
    bits = torch.arange(8, device=device)
    return torch.stack([bits & 1, bits >> 1 & 1, bits >> 2 & 1], dim=1)


# The operators torch.ops.nemo_dreamfusion.hash_grid*. The backward ones have a backward of their own: normals are gradients
# with respect to the positions, and losses on normals are trained through.


def describe_layout(
    features: int, resolutions: Sequence[int], offsets: Sequence[int], hashed: Sequence[bool], smooth: bool
) -> GridLayout:
    """Return the layout that an operator's arguments describe (an operator cannot take a dataclass)."""
    interpolation = 'smoothstep' if smooth else 'linear'
    return GridLayout(tuple(resolutions), tuple(offsets), tuple(hashed), features, interpolation)


@torch.library.custom_op('nemo_dreamfusion::hash_grid', mutates_args=())
def hash_grid_op(
    positions: Tensor, table: Tensor, resolutions: list[int], offsets: list[int], hashed: list[bool], smooth: bool
) -> Tensor:
    layout = describe_layout(table.shape[1], resolutions, offsets, hashed, smooth)
    return select.kernels('hash_grid', table).hash_grid_forward(positions.contiguous(), table.contiguous(), layout)


@hash_grid_op.register_fake
def _(positions, table, resolutions, offsets, hashed, smooth):
    return table.new_empty(positions.shape[0], len(resolutions) * table.shape[1])


@torch.library.custom_op('nemo_dreamfusion::hash_grid_backward_table', mutates_args=())
def hash_grid_backward_table_op(
    grad: Tensor, positions: Tensor, resolutions: list[int], offsets: list[int], hashed: list[bool], smooth: bool
) -> Tensor:
    layout = describe_layout(grad.shape[1] // len(resolutions), resolutions, offsets, hashed, smooth)
    return select.kernels('hash_grid', grad).hash_grid_backward_table(
        grad.contiguous(), positions.contiguous(), layout
    )


@hash_grid_backward_table_op.register_fake
def _(grad, positions, resolutions, offsets, hashed, smooth):
    return grad.new_empty(offsets[-1], grad.shape[1] // len(resolutions))


@torch.library.custom_op('nemo_dreamfusion::hash_grid_backward_positions', mutates_args=())
def hash_grid_backward_positions_op(
    grad: Tensor,
    positions: Tensor,
    table: Tensor,
    resolutions: list[int],
    offsets: list[int],
    hashed: list[bool],
    smooth: bool,
) -> Tensor:
    layout = describe_layout(table.shape[1], resolutions, offsets, hashed, smooth)
    inputs = (grad.contiguous(), positions.contiguous(), table.contiguous())
    return select.kernels('hash_grid', table).hash_grid_backward_positions(*inputs, layout)


@hash_grid_backward_positions_op.register_fake
def _(grad, positions, table, resolutions, offsets, hashed, smooth):
    return torch.empty_like(positions, memory_format=torch.contiguous_format)


@torch.library.custom_op('nemo_dreamfusion::hash_grid_double_backward', mutates_args=())
def hash_grid_double_backward_op(
    toward: Tensor,
    grad: Tensor,
    positions: Tensor,
    table: Tensor,
    resolutions: list[int],
    offsets: list[int],
    hashed: list[bool],
    smooth: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of <toward, grad_positions> with respect to grad, positions and table."""
    layout = describe_layout(table.shape[1], resolutions, offsets, hashed, smooth)
    inputs = (toward.contiguous(), grad.contiguous(), positions.contiguous(), table.contiguous())
    results = select.kernels('hash_grid', table).hash_grid_double_backward(*inputs, layout, tuple(needs))
    for_grad, for_positions, for_table = (table.new_empty(0) if result is None else result for result in results)
    return for_grad, for_positions, for_table  # empty where not needed: an operator cannot return None


@hash_grid_double_backward_op.register_fake
def _(toward, grad, positions, table, resolutions, offsets, hashed, smooth, needs):
    shapes = (grad.shape, positions.shape, table.shape)
    return tuple(table.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needs, strict=True))


def _save_hash_grid(ctx, inputs, output):
    count = 3 if isinstance(inputs[2], Tensor) else 2
    ctx.save_for_backward(*inputs[:count])
    ctx.layout = inputs[count:]


def _hash_grid_gradients(ctx, grad):
    positions, table = ctx.saved_tensors
    need_positions, need_table = ctx.needs_input_grad[:2]
    return (
        hash_grid_backward_positions_op(grad, positions, table, *ctx.layout) if need_positions else None,
        hash_grid_backward_table_op(grad, positions, *ctx.layout) if need_table else None,
        *[None] * 4,
    )


def _backward_table_gradients(ctx, toward):
    """Use that <toward, grad_table> = <grad, hash_grid(positions, toward)>: linear in both."""
    grad, positions = ctx.saved_tensors
    need_grad, need_positions = ctx.needs_input_grad[:2]
    return (
        hash_grid_op(positions, toward, *ctx.layout) if need_grad else None,
        hash_grid_backward_positions_op(grad, positions, toward, *ctx.layout) if need_positions else None,
        *[None] * 4,
    )


def _backward_positions_gradients(ctx, toward):
    grad, positions, table = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    results = hash_grid_double_backward_op(toward, grad, positions, table, *ctx.layout, needs)
    return (*(result if need else None for result, need in zip(results, needs, strict=True)), *[None] * 4)


hash_grid_op.register_autograd(_hash_grid_gradients, setup_context=_save_hash_grid)
hash_grid_backward_table_op.register_autograd(_backward_table_gradients, setup_context=_save_hash_grid)
hash_grid_backward_positions_op.register_autograd(_backward_positions_gradients, setup_context=_save_hash_grid)
