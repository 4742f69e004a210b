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

"""Points through a hash grid and on through small networks, in one pass.

What :func:`~nemo_dreamfusion.ops.hash_grid.hash_grid_encode` and :func:`~nemo_dreamfusion.ops.mlp.relu_mlp` do one after
the other. The kernels take a block of points through everything while it is in the nearest cache (C++) or in registers
(Triton); the features of all points are written once, for the gradients, and not at all where none are wanted.

The Triton kernels have never run on a GPU, so nobody knows whether they are faster there than one operator after the
other: only ``NEMO_DREAMFUSION_OPS=triton`` chooses them, ``auto`` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.hash_grid import COMPILED_FEATURES, GridLayout, describe_layout, hash_grid_reference
from nemo_dreamfusion.ops.mlp import MAX_LAYERS, mlp_reference

MAX_NETWORKS = 8  # as in csrc/grid_networks_kernels.h
# Larger networks and tables no longer stay in the nearer caches beside each other: then each in its turn is faster.
MOST_WEIGHTS = 2**13
MOST_ROWS = 2**21
# A Triton program holds one point's numbers of a layer at once, and its loops over layers are written out.
WIDEST = 64
MOST_WEIGHTS_OF_A_PROGRAM = 2**14
FIRST_TRITON = (3, 4)  # 3.3 reads no number out of a tuple
KEPT_ROWS = 128  # the kept encoding has a multiple of so many rows: a block of csrc/hash_grid_blocks.h

Layers = Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]  # weights [out, in] and biases [out] of each network


def fuses(positions: Tensor, table: Tensor, layout: GridLayout, networks: Layers) -> bool:
    """Return whether the kernels take these tensors, and are faster than one operator after the other or asked for."""
    parameters = [t for weights, biases in networks for t in (*weights, *biases)]
    backend = select.backend(positions, table, *parameters)
    return (
        (
            (backend == 'native' and _fits_caches(layout, parameters))
            or (backend == 'triton' and select.mode() == 'triton' and _fits_program(layout, parameters))
        )
        and not (torch.is_grad_enabled() and positions.requires_grad)
        and not torch.is_autocast_enabled(positions.device.type)
        and layout.features in COMPILED_FEATURES
        and len(networks) <= MAX_NETWORKS
        and all(len(weights) == len(biases) <= MAX_LAYERS for weights, biases in networks)
    )


def _fits_caches(layout: GridLayout, parameters: Sequence[Tensor]) -> bool:
    return layout.rows <= MOST_ROWS and sum(t.numel() for t in parameters) <= MOST_WEIGHTS


def _fits_program(layout: GridLayout, parameters: Sequence[Tensor]) -> bool:
    widest = max(layout.width, *(t.shape[0] for t in parameters))
    weights = sum(t.numel() for t in parameters)
    return widest <= WIDEST and weights <= MOST_WEIGHTS_OF_A_PROGRAM and select.triton_version() >= FIRST_TRITON


def grid_networks(
    positions: Tensor, table: Tensor, layout: GridLayout, networks: Layers, *, bound: float, open_levels: int
) -> list[Tensor]:
    """Encode points and apply each network to their features.

    Args:
        positions: [N, 3] in [-bound, bound]; a point outside is moved to the nearest face.
        table: [T, F], the rows of all levels.
        layout: where each level's rows lie.
        networks: weights and biases of the layers of each, ReLU between them.
        bound: half the side of the box.
        open_levels: the features of further levels are zero.

    Returns:
        [N, outputs] of each network, differentiable (twice) with respect to table, weights and biases.

    >>> cell = GridLayout.make(1, 1, 3, base_resolution=1, max_resolution=1, interpolation='linear')
    >>> table = torch.tensor([[0.0], [1.0], [0.0], [1.0], [0.0], [1.0], [0.0], [1.0]])  # the x of each corner
    >>> double = [torch.tensor([[2.0]])], [torch.tensor([0.5])]
    >>> grid_networks(torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), table, cell, [double], bound=1.0, open_levels=1)
    [tensor([[1.5000],
            [2.5000]])]
    """
    if not fuses(positions, table, layout, networks):
        return grid_networks_reference(positions, table, layout, networks, bound=bound, open_levels=open_levels)
    weights = [t for layers, _ in networks for t in layers]
    biases = [t for _, layers in networks for t in layers]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (table, *weights, *biases))
    if (
        not keep and not torch.compiler.is_compiling()
    ):  # without the operator, whose way here costs a tenth of the work
        inputs = (positions.contiguous(), table.contiguous(), layout, open_levels, bound)
        layers = _networks(weights, biases, [len(w) for w, _ in networks])
        return select.kernels('grid_networks', table).grid_networks_forward(*inputs, layers, keep)[1]
    options = (layout.resolutions, layout.offsets, layout.hashed, layout.smooth, open_levels, bound)
    return grid_networks_op(positions, table, weights, biases, [len(w) for w, _ in networks], *options, keep)[1:]


def grid_networks_reference(
    positions: Tensor, table: Tensor, layout: GridLayout, networks: Layers, *, bound: float, open_levels: int
) -> list[Tensor]:
    """Reference implementation of :func:`grid_networks`: the grid, then one network after the other."""
    features = hash_grid_reference((positions + bound) / (2 * bound), table, layout)
    features = features * (torch.arange(layout.width, device=features.device) < open_levels * layout.features)
    return [mlp_reference(features, weights, biases) for weights, biases in networks]


# The operators torch.ops.nemo_dreamfusion.grid_networks*. Gradients of gradients go through the reference.


def _networks(weights: Sequence[Tensor], biases: Sequence[Tensor], layers: Sequence[int]) -> Layers:
    """Share out the layers of all networks, given one after another."""
    each = iter(zip((t.contiguous() for t in weights), (t.contiguous() for t in biases), strict=True))
    shared = [list(islice(each, count)) for count in layers]
    return [([weight for weight, _ in own], [bias for _, bias in own]) for own in shared]


@torch.library.custom_op('nemo_dreamfusion::grid_networks', mutates_args=())
def grid_networks_op(
    positions: Tensor,
    table: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    layers: list[int],
    resolutions: list[int],
    offsets: list[int],
    hashed: list[bool],
    smooth: bool,
    open_levels: int,
    bound: float,
    keep: bool,
) -> list[Tensor]:
    """Return the encoded points as the kernels keep them (empty unless ``keep``), and the outputs of each network."""
    layout = describe_layout(table.shape[1], resolutions, offsets, hashed, smooth)
    encoded, outputs = select.kernels('grid_networks', table).grid_networks_forward(
        positions.contiguous(),
        table.contiguous(),
        layout,
        open_levels,
        bound,
        _networks(weights, biases, layers),
        keep,
    )
    return [table.new_empty(0) if encoded is None else encoded, *outputs]  # an operator cannot return None


def _padded(points: int, layout_width: int) -> tuple[int, int]:
    return -(-points // KEPT_ROWS) * KEPT_ROWS, layout_width


@grid_networks_op.register_fake
def _(positions, table, weights, biases, layers, resolutions, offsets, hashed, smooth, open_levels, bound, keep):
    last, lasts = -1, []
    for count in layers:
        last += count
        lasts.append(last)
    shape = _padded(positions.shape[0], len(resolutions) * table.shape[1]) if keep else (0,)
    return [table.new_empty(shape), *(table.new_empty(positions.shape[0], weights[i].shape[0]) for i in lasts)]


@torch.library.custom_op('nemo_dreamfusion::grid_networks_backward', mutates_args=())
def grid_networks_backward_op(
    grads: list[Tensor],
    encoded: Tensor,
    positions: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    layers: list[int],
    resolutions: list[int],
    offsets: list[int],
    hashed: list[bool],
    smooth: bool,
    open_levels: int,
    bound: float,
) -> list[Tensor]:
    """Return the gradients of the table, of all weights and of all biases."""
    layout = describe_layout(encoded.shape[1] // len(resolutions), resolutions, offsets, hashed, smooth)
    grad_table, grad_weights, grad_biases = select.kernels('grid_networks', encoded).grid_networks_backward(
        [g.contiguous() for g in grads],
        positions.contiguous(),
        encoded,
        layout,
        open_levels,
        bound,
        _networks(weights, biases, layers),
    )
    return [grad_table, *grad_weights, *grad_biases]


@grid_networks_backward_op.register_fake
def _(grads, encoded, positions, weights, biases, layers, resolutions, offsets, hashed, smooth, open_levels, bound):
    table = encoded.new_empty(offsets[-1], encoded.shape[1] // len(resolutions))
    return [table, *(t.new_empty(t.shape) for t in (*weights, *biases))]


def _save(ctx, inputs, output):
    positions, table, weights, biases, layers, *options = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(positions, table, output[0], *weights, *biases)
    ctx.layers, ctx.options, ctx.count = layers, options[:-1], len(weights)
    ctx.outputs = [(len(positions), out.shape[1]) for out in output[1:]]


def _gradients(ctx, grads):
    positions, table, encoded, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.count], parameters[ctx.count :]
    given = [table.new_zeros(s) if g is None else g for g, s in zip(grads[1:], ctx.outputs, strict=True)]
    if torch.is_grad_enabled():  # a gradient of the gradient is wanted
        results = _gradients_reference(given, positions, table, weights, biases, ctx.layers, ctx.options)
    else:
        results = grid_networks_backward_op(given, encoded, positions, weights, biases, ctx.layers, *ctx.options)
    first = results[0] if ctx.needs_input_grad[1] else None
    return (None, first, results[1 : 1 + ctx.count], results[1 + ctx.count :], None, *[None] * (len(ctx.options) + 1))


def _gradients_reference(grads, positions, table, weights, biases, layers, options) -> list[Tensor | None]:
    *described, open_levels, bound = options
    layout = describe_layout(table.shape[1], *described)
    with torch.enable_grad():
        networks = _networks(weights, biases, layers)
        outputs = grid_networks_reference(positions, table, layout, networks, bound=bound, open_levels=open_levels)
    given = [table, *weights, *biases]
    wanted = [t for t in given if t.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True))
    return [next(found) if t.requires_grad else None for t in given]


grid_networks_op.register_autograd(_gradients, setup_context=_save)
