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

"""Hash grid and networks in one pass: the same numbers as one after the other, forward and backward."""

import importlib.util

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from nemo_dreamfusion.ops.grid_networks import (
    MOST_WEIGHTS,
    WIDEST,
    fuses,
    grid_networks,
    grid_networks_op,
    grid_networks_reference,
)
from nemo_dreamfusion.ops.hash_grid import GridLayout, hash_grid_encode
from nemo_dreamfusion.ops.mlp import relu_mlp

LAYOUT = GridLayout.make(levels=5, features=2, log2_table_size=9, base_resolution=3, max_resolution=20)


def network(*widths: int, seed: int = 0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator, dtype=dtype) * 0.4).requires_grad_()

    pairs = list(zip(widths[:-1], widths[1:]))
    return [draw(after, before) for before, after in pairs], [draw(after) for _, after in pairs]


def scene(points: int, layout: GridLayout = LAYOUT, dtype: torch.dtype = torch.float32):
    """Points in and around the box, a table, and networks of odd widths and depths."""
    generator = torch.Generator().manual_seed(7)
    positions = torch.rand(points, 3, generator=generator, dtype=dtype) * 4.4 - 2.2
    table = (torch.randn(layout.rows, layout.features, generator=generator, dtype=dtype)).requires_grad_()
    networks = [network(layout.width, 32, 1, dtype=dtype), network(layout.width, 13, 7, 3, seed=1, dtype=dtype)]
    return positions, table, networks


def parameters(table, networks):
    return [table, *(t for weights, biases in networks for t in (*weights, *biases))]


@pytest.mark.parametrize('points', [0, 1, 127, 128, 5000])
@pytest.mark.parametrize('features', [1, 2, 8])
@pytest.mark.parametrize('open_levels', [5, 3])
def test_outputs_and_gradients_are_those_of_the_reference(points, features, open_levels):
    layout = GridLayout.make(5, features, 9, 3, 20)
    positions, table, networks = scene(points, layout)
    assert fuses(positions, table, layout, networks)
    options = {'bound': 2.0, 'open_levels': open_levels}
    found = grid_networks(positions, table, layout, networks, **options)
    expected = grid_networks_reference(positions, table, layout, networks, **options)
    grads = [torch.randn(out.shape, generator=torch.Generator().manual_seed(2)) for out in expected]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    leaves = parameters(table, networks)
    pairs = zip(torch.autograd.grad(found, leaves, grads), torch.autograd.grad(expected, leaves, grads), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * max(1.0, theirs.abs().max().item()))


def test_the_outputs_are_the_bits_of_one_operator_after_the_other():
    positions, table, networks = scene(2000)
    apart = [relu_mlp(hash_grid_encode((positions + 2) / 4, table, LAYOUT), *layers) for layers in networks]
    together = grid_networks(positions, table, LAYOUT, networks, bound=2.0, open_levels=5)
    assert all(torch.equal(a, b) for a, b in zip(apart, together, strict=True))


def test_without_gradients_and_with_other_numbers_of_threads_the_bits_are_the_same():
    positions, table, networks = scene(9000)
    leaves, threads = parameters(table, networks), torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            out = grid_networks(positions, table, LAYOUT, networks, bound=2.0, open_levels=5)
            results.append([*out, *torch.autograd.grad([o.sum() for o in out], leaves)])
            with torch.no_grad():
                plain = grid_networks(positions, table, LAYOUT, networks, bound=2.0, open_levels=5)
            assert all(torch.equal(a, b) for a, b in zip(out, plain, strict=True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_output_that_nothing_reads_has_no_gradient():
    positions, table, networks = scene(300)
    out = grid_networks(positions, table, LAYOUT, networks, bound=2.0, open_levels=5)
    gradients = torch.autograd.grad(out[0].sum(), parameters(table, networks))
    assert all(g.abs().sum() > 0 for g in gradients[1:5]) and not any(g.any() for g in gradients[5:])


def test_gradients_of_gradients_are_those_of_the_reference():
    positions, table, networks = scene(200)
    leaves = parameters(table, networks)
    results = []
    for function in (grid_networks, grid_networks_reference):
        out = function(positions, table, LAYOUT, networks, bound=2.0, open_levels=5)
        (first,) = torch.autograd.grad((out[1] ** 2).sum(), table, create_graph=True)
        results.append(torch.autograd.grad((first**2).sum(), leaves, allow_unused=True))
    for ours, theirs in zip(*results, strict=True):
        if theirs is None:  # of the network that nothing reads
            assert not ours.any()
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * max(1.0, theirs.abs().max().item()))


def test_in_double_precision_the_reference_runs_and_its_gradients_are_right():
    layout = GridLayout.make(2, 2, 6, 2, 3)
    positions, table, _ = scene(4, layout, torch.float64)
    weights, biases = network(4, 3, 2, dtype=torch.float64)

    def run(table, *layers):
        networks = [(layers[:2], layers[2:])]
        return grid_networks(positions, table, layout, networks, bound=2.0, open_levels=2)[0]

    assert gradcheck(run, (table, *weights, *biases)) and gradgradcheck(run, (table, *weights, *biases))


def test_what_the_kernels_do_not_take_goes_another_way():
    positions, table, networks = scene(10)
    assert not fuses(positions.requires_grad_(), table, LAYOUT, networks)  # normals as gradients
    with torch.no_grad():
        assert fuses(positions, table, LAYOUT, networks)
    large = [network(LAYOUT.width, MOST_WEIGHTS // LAYOUT.width + 1, 1)]
    assert not fuses(positions.detach(), table, LAYOUT, large)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert not fuses(positions.detach(), table, LAYOUT, networks)


needs_triton = pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='triton is not installed')


def on_a_gpu(*hidden: int, layout: GridLayout = LAYOUT, dtype: torch.dtype = torch.float32, bias: bool = True):
    """What ``fuses`` is asked: tensors without numbers on a GPU that need not be there."""

    def make(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device='cuda')

    widths = [layout.width, *hidden, 3]
    weights, biases = [make(b, a) for a, b in zip(widths, widths[1:])], [make(b) for b in widths[1:]]
    return make(5, 3), make(layout.rows, layout.features), layout, [(weights, biases if bias else [])]


@needs_triton
def test_on_a_gpu_one_operator_follows_the_other_unless_triton_is_asked_for_by_name(backend):
    with FakeTensorMode():
        for name, wanted in {'auto': False, 'triton': True, 'native': False, 'reference': False}.items():
            backend(name)
            assert fuses(*on_a_gpu(32)) == wanted, name


@needs_triton
def test_what_the_triton_kernels_do_not_take_goes_another_way(backend):
    backend('triton')
    with FakeTensorMode():
        full_size = GridLayout.make(16, 2, 19, 16, 2048)
        assert fuses(*on_a_gpu(WIDEST, WIDEST, layout=full_size))
        assert not fuses(*on_a_gpu(WIDEST + 1))
        assert not fuses(*on_a_gpu(32, layout=GridLayout.make(WIDEST // 2 + 1, 2, 9, 3, 20)))
        assert not fuses(*on_a_gpu(32, layout=GridLayout.make(5, 3, 9, 3, 20)))  # features in no kernel
        assert not fuses(*on_a_gpu(64, 64, 64, 64, 64, 64))  # too much to write out
        assert not fuses(*on_a_gpu(32, dtype=torch.float64))
        assert not fuses(*on_a_gpu(32, bias=False))
        positions, *others = on_a_gpu(32)
        assert not fuses(positions.requires_grad_(), *others)


@needs_triton
def test_an_older_triton_that_cannot_compile_the_kernels_is_not_asked_to(backend, monkeypatch):
    backend('triton')
    with FakeTensorMode():
        for version, wanted in {'3.3.1': False, '3.4.0': True, '3.10.0+git': True}.items():
            monkeypatch.setattr('triton.__version__', version)
            assert fuses(*on_a_gpu(32)) == wanted, version


def test_the_operator_passes_torchs_checks(needs_native, assert_opcheck):
    layout = GridLayout.make(3, 2, 6, 2, 5)
    weights, biases = network(layout.width, 16, 3)
    table, positions = torch.randn(layout.rows, 2, requires_grad=True), torch.rand(128, 3) * 2 - 1
    described = [list(part) for part in (layout.resolutions, layout.offsets, layout.hashed)]
    assert_opcheck(grid_networks_op, (positions, table, weights, biases, [2], *described, True, 2, 1.0, True))
