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

"""Hash grid in Triton; the reference implementation, with the source of the formulas, is in ``ops/hash_grid.py``."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from nemo_dreamfusion.ops.hash_grid import GridLayout

POINTS = 128  # that one program works on
RUNS, RUN_LENGTH = 16, 16  # of points, in the gradient to the hash table

# A fused multiply-add would place a point in its cell differently from the reference, by 1e-4 at fine levels.
EXACTLY = {'enable_fp_fusion': False}


@functools.lru_cache(maxsize=64)
def level_table(layout: GridLayout, device: torch.device) -> Tensor:
    """Return [L, 3] int64 on the device: resolution, first row, mask of the hash (-1 for a dense level)."""
    offsets = layout.offsets
    masks = [b - a - 1 if h else -1 for a, b, h in zip(offsets[:-1], offsets[1:], layout.hashed)]
    return torch.tensor([list(row) for row in zip(layout.resolutions, offsets[:-1], masks)], device=device)


@triton.jit
def _axis(positions, p, axis: tl.constexpr, n, resolution, SMOOTH: tl.constexpr):
    """Load one coordinate of points and place it: see :func:`place_in_cell`."""
    return place_in_cell(tl.load(positions + 3 * p + axis, mask=p < n, other=0.0), resolution, SMOOTH)


@triton.jit
def place_in_cell(raw, resolution, SMOOTH: tl.constexpr):
    """Return the cell, the (interpolated) fraction and its two derivatives in the position (0 outside of [0, 1])."""
    scaled = tl.minimum(tl.maximum(raw, 0.0), 1.0) * resolution
    cell = tl.minimum(scaled.to(tl.int32), resolution - 1)
    u = scaled - cell
    slope = tl.where((raw >= 0.0) & (raw <= 1.0), resolution.to(tl.float32), 0.0)
    bend = slope * 0.0
    if SMOOTH:
        bend = slope * resolution * (6.0 - 12.0 * u)
        slope = slope * 6.0 * u * (1.0 - u)
        u = u * u * (3.0 - 2.0 * u)
    return cell, u, slope, bend


@triton.jit
def corner_row(x, y, z, resolution, mask):
    side = resolution + 1
    dense = x + side * (y + side * z)
    mixed = x.to(tl.uint32) ^ (y.to(tl.uint32) * 2654435761) ^ (z.to(tl.uint32) * 805459861)
    return tl.where(mask < 0, dense.to(tl.int64), mixed.to(tl.int64) & mask)


@triton.jit
def _grid_kernel(
    positions, table, grad, toward, out, levels, n, stride,
    F: tl.constexpr, SMOOTH: tl.constexpr, MODE: tl.constexpr, ALONG: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Work on one level of a block of points. MODE 0: out [N, L F] = encoding; 1: out [N, 3] += gradient of positions.

    ALONG replaces the weights by their derivatives along ``toward`` [N, 3].
    """
    p, level = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    resolution = tl.load(levels + 3 * level).to(tl.int32)
    first, mask = tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2)
    cx, x, sx, bx = _axis(positions, p, 0, n, resolution, SMOOTH)
    cy, y, sy, by = _axis(positions, p, 1, n, resolution, SMOOTH)
    cz, z, sz, bz = _axis(positions, p, 2, n, resolution, SMOOTH)
    if ALONG:
        vx = tl.load(toward + 3 * p, mask=p < n, other=0.0)
        vy = tl.load(toward + 3 * p + 1, mask=p < n, other=0.0)
        vz = tl.load(toward + 3 * p + 2, mask=p < n, other=0.0)
    f = tl.arange(0, F)
    here = p.to(tl.int64)[:, None] * stride + level * F + f[None, :]
    inside = (p < n)[:, None] & (f[None, :] < F)
    if MODE > 0:
        incoming = tl.load(grad + here, mask=inside, other=0.0)
    total = tl.zeros([BLOCK, F], tl.float32)
    gx, gy, gz = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for corner in tl.static_range(8):
        i, j, k = corner & 1, corner >> 1 & 1, corner >> 2
        row = first + corner_row(cx + i, cy + j, cz + k, resolution, mask)
        at = row[:, None] * F + f[None, :]
        wx, wy, wz = (x if i else 1.0 - x), (y if j else 1.0 - y), (z if k else 1.0 - z)
        dx, dy, dz = (sx if i else -sx), (sy if j else -sy), (sz if k else -sz)
        weight = wx * wy * wz
        tx, ty, tz = dx * wy * wz, dy * wx * wz, dz * wx * wy
        if ALONG:
            weight = vx * tx + vy * ty + vz * tz
            tx = vx * (bx if i else -bx) * wy * wz + dx * (vy * dy * wz + vz * dz * wy)
            ty = vy * (by if j else -by) * wx * wz + dy * (vx * dx * wz + vz * dz * wx)
            tz = vz * (bz if k else -bz) * wx * wy + dz * (vx * dx * wy + vy * dy * wx)
        values = tl.load(table + at, mask=inside, other=0.0)
        if MODE == 0:
            total += weight[:, None] * values
        else:
            dot = tl.sum(incoming * values, axis=1)
            gx += tx * dot
            gy += ty * dot
            gz += tz * dot
    if MODE == 0:
        tl.store(out + here, total, mask=inside)
    else:
        tl.atomic_add(out + 3 * p, gx, mask=p < n, sem='relaxed')
        tl.atomic_add(out + 3 * p + 1, gy, mask=p < n, sem='relaxed')
        tl.atomic_add(out + 3 * p + 2, gz, mask=p < n, sem='relaxed')


@triton.jit
def _add_rows(out, sums, x, y, z, first, resolution, mask, where, F: tl.constexpr):
    """Add sums [RUNS, 8, F] to out [T, F] at the corners x, y, z [RUNS, 8], of the runs ``where`` [RUNS] holds."""
    row = first + corner_row(x, y, z, resolution, mask)
    wanted = where[:, None] & (tl.max((sums != 0.0).to(tl.int32), axis=2) > 0)  # NaN is not 0
    at = row[:, :, None] * F + tl.arange(0, F)[None, None, :]
    tl.atomic_add(out + at, sums, mask=wanted[:, :, None], sem='relaxed')


@triton.jit
def _table_gradient_kernel(
    positions, grad, toward, out, levels, n, stride,
    F: tl.constexpr, SMOOTH: tl.constexpr, ALONG: tl.constexpr, RUNS: tl.constexpr, LENGTH: tl.constexpr,
):  # fmt: skip
    """Add weights * grad to out [T, F]: one level of RUNS runs of LENGTH points each.

    Neighbours along a ray, or around a sample, share cells. A run sums up while it stays in one cell, one corner per lane,
    and adds to memory, where atomics would wait for each other, only when it leaves. (Points without gradient add nothing.)
    """
    run, level = tl.program_id(0) * RUNS + tl.arange(0, RUNS), tl.program_id(1)
    resolution = tl.load(levels + 3 * level).to(tl.int32)
    first, mask = tl.load(levels + 3 * level + 1), tl.load(levels + 3 * level + 2)
    corner, f = tl.arange(0, 8)[None, :], tl.arange(0, F)
    right, up, back = (corner & 1) > 0, (corner >> 1 & 1) > 0, (corner >> 2) > 0
    px, py, pz = tl.zeros([RUNS], tl.int32), tl.zeros([RUNS], tl.int32), tl.zeros([RUNS], tl.int32)
    sums = tl.zeros([RUNS, 8, F], tl.float32)
    for step in range(LENGTH):
        p = run * LENGTH + step
        cx, x, sx, _ = _axis(positions, p, 0, n, resolution, SMOOTH)
        cy, y, sy, _ = _axis(positions, p, 1, n, resolution, SMOOTH)
        cz, z, sz, _ = _axis(positions, p, 2, n, resolution, SMOOTH)
        wx = tl.where(right, x[:, None], 1.0 - x[:, None])
        wy = tl.where(up, y[:, None], 1.0 - y[:, None])
        wz = tl.where(back, z[:, None], 1.0 - z[:, None])
        weight = wx * wy * wz
        if ALONG:
            vx = tl.load(toward + 3 * p, mask=p < n, other=0.0) * sx
            vy = tl.load(toward + 3 * p + 1, mask=p < n, other=0.0) * sy
            vz = tl.load(toward + 3 * p + 2, mask=p < n, other=0.0) * sz
            weight = tl.where(right, vx[:, None], -vx[:, None]) * wy * wz
            weight += tl.where(up, vy[:, None], -vy[:, None]) * wx * wz
            weight += tl.where(back, vz[:, None], -vz[:, None]) * wx * wy
        here = p.to(tl.int64)[:, None] * stride + level * F + f[None, :]
        incoming = tl.load(grad + here, mask=(p < n)[:, None] & (f[None, :] < F), other=0.0)
        moved = (cx != px) | (cy != py) | (cz != pz)
        _add_rows(
            out, sums, px[:, None] + right, py[:, None] + up, pz[:, None] + back, first, resolution, mask, moved, F
        )
        sums = tl.where(moved[:, None, None], 0.0, sums) + weight[:, :, None] * incoming[:, None, :]
        px, py, pz = cx, cy, cz
    _add_rows(
        out, sums, px[:, None] + right, py[:, None] + up, pz[:, None] + back, first, resolution, mask, run >= 0, F
    )


def _run_grid(
    mode: int,
    positions: Tensor,
    out: Tensor,
    layout: GridLayout,
    *,
    table: Tensor,
    grad: Tensor,
    toward: Tensor | None = None,
) -> Tensor:
    n, levels, features = len(positions), layout.levels, layout.features
    if n:
        along = toward if toward is not None else positions
        sizes = (n, levels * features, features, layout.smooth, mode, toward is not None, POINTS)
        _grid_kernel[(triton.cdiv(n, POINTS), levels)](
            positions, table, grad, along, out, level_table(layout, positions.device), *sizes, **EXACTLY
        )
    return out


def _add_table_gradient(
    positions: Tensor, out: Tensor, layout: GridLayout, *, grad: Tensor, toward: Tensor | None
) -> Tensor:
    n, levels, features = len(positions), layout.levels, layout.features
    if n:
        along = toward if toward is not None else positions
        sizes = (n, levels * features, features, layout.smooth, toward is not None, RUNS, RUN_LENGTH)
        _table_gradient_kernel[(triton.cdiv(n, RUNS * RUN_LENGTH), levels)](
            positions, grad, along, out, level_table(layout, positions.device), *sizes, **EXACTLY
        )
    return out


def hash_grid_forward(positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    out = table.new_empty(len(positions), layout.width)
    return _run_grid(0, positions, out, layout, table=table, grad=out)


def hash_grid_backward_table(grad: Tensor, positions: Tensor, layout: GridLayout) -> Tensor:
    return _add_table_gradient(positions, grad.new_zeros(layout.rows, layout.features), layout, grad=grad, toward=None)


def hash_grid_backward_positions(grad: Tensor, positions: Tensor, table: Tensor, layout: GridLayout) -> Tensor:
    return _run_grid(1, positions, torch.zeros_like(positions), layout, table=table, grad=grad)


def hash_grid_double_backward(
    toward: Tensor, grad: Tensor, positions: Tensor, table: Tensor, layout: GridLayout, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    inputs = {'table': table, 'grad': grad, 'toward': toward}
    return (
        _run_grid(0, positions, torch.empty_like(grad), layout, **inputs) if needs[0] else None,
        _run_grid(1, positions, torch.zeros_like(positions), layout, **inputs) if needs[1] else None,
        _add_table_gradient(positions, torch.zeros_like(table), layout, grad=grad, toward=toward)
        if needs[2]
        else None,
    )
