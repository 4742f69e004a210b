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

"""The hash grid: against arithmetic by hand, and the native backend against the reference."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.ops.adan import FusedAdan
from nemo_dreamfusion.ops.backends.cpu import hash_grid as cpu_kernels
from nemo_dreamfusion.ops.backends.cpu.buffers import Buffers
from nemo_dreamfusion.ops.hash_grid import (
    COMPILED_FEATURES,
    PRIMES,
    GridLayout,
    corner_rows,
    hash_grid_backward_positions_op,
    hash_grid_backward_table_op,
    hash_grid_double_backward_op,
    hash_grid_encode,
    hash_grid_op,
    hash_grid_reference,
)

pytestmark = pytest.mark.unit


def layout(features=2, interpolation='smoothstep', levels=5, log2_table_size=8):
    return GridLayout.make(levels, features, log2_table_size, 3, 40, interpolation)


def points(n):
    """Random points, some outside, some on faces, edges and corners of the box."""
    x = torch.rand(n, 3) * 1.1 - 0.05
    if n >= 4:
        x[:4] = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.5, 1, 0], [2, -1, 0.3]])
    return x


def arguments(grid):
    return list(grid.resolutions), list(grid.offsets), list(grid.hashed), grid.interpolation == 'smoothstep'


class TestLayout:
    def test_levels_grow_from_base_to_max(self):
        grid = GridLayout.make(16, 2, 19, 16, 2048)
        assert grid.resolutions[0] == 16 and grid.resolutions[-1] == 2048
        assert grid.width == 16 * 2
        assert sorted(grid.resolutions) == list(grid.resolutions)

    def test_dense_where_all_corners_fit_in_multiples_of_eight(self):
        grid = GridLayout.make(2, 2, 9, 6, 8)
        assert grid.hashed == (False, True)  # 7^3 = 343 <= 512 < 729 = 9^3
        assert grid.offsets == (0, 344, 344 + 512)

    def test_one_level(self):
        assert GridLayout.make(1, 2, 9, 5, 5).resolutions == (5,)

    @pytest.mark.parametrize(
        ('name', 'value', 'allowed'),
        [
            ('interpolation', 'cubic', 'smoothstep'),
            ('levels', 0, 'at least 1'),
            ('features', 0, 'at least 1'),
            ('base_resolution', 9, 'max_resolution'),
            ('log2_table_size', 1, 'at most 30'),
        ],
    )
    def test_an_option_out_of_its_range_is_refused(self, name, value, allowed):
        given = {'levels': 2, 'features': 2, 'log2_table_size': 9, 'base_resolution': 2, 'max_resolution': 8}
        with refusal(name, value, allowed):
            GridLayout.make(**(given | {name: value}))

    def test_tensors_of_another_shape_are_refused(self):
        grid = layout()
        with refusal('positions.shape', (4, 2), '[N, 3]'):
            hash_grid_encode(torch.rand(4, 2), torch.zeros(grid.rows, 2), grid)
        with refusal('table.shape', (7, 2), (grid.rows, 2)):
            hash_grid_encode(torch.rand(4, 3), torch.zeros(7, 2), grid)


class TestReference:
    def test_rows_of_a_hashed_level(self):
        grid = layout()
        assert grid.hashed[-1]
        x, y, z = 5, 6, 7
        expected = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) % 2**8
        assert corner_rows(torch.tensor([x, y, z]), grid, 4) == expected

    def test_linear_interpolation_reproduces_a_linear_function(self):
        grid = GridLayout.make(1, 1, 12, 7, 7, 'linear')
        table = torch.zeros(grid.rows, 1)
        steps = torch.arange(8)
        corner = torch.cartesian_prod(steps, steps, steps)
        table[corner_rows(corner, grid, 0), 0] = (corner @ torch.tensor([2, 3, 5])) / 7
        x = torch.rand(50, 3)
        torch.testing.assert_close(hash_grid_reference(x, table, grid)[:, 0], x @ torch.tensor([2.0, 3, 5]))

    def test_smoothstep_has_no_kink_at_cell_faces(self):
        grid = GridLayout.make(1, 1, 12, 4, 4)
        x = torch.tensor([[0.25, 0.4, 0.6]], requires_grad=True)
        hash_grid_reference(x, torch.randn(grid.rows, 1), grid).sum().backward()
        assert x.grad[0, 0] == 0 and x.grad[0, 1] != 0

    @pytest.mark.parametrize('interpolation', ['linear', 'smoothstep'])
    def test_gradients_in_float64(self, interpolation):
        grid = layout(2, interpolation, levels=2, log2_table_size=5)
        x = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)
        table = torch.randn(grid.rows, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda a, b: hash_grid_encode(a, b, grid), (x, table))
        assert torch.autograd.gradgradcheck(lambda a, b: hash_grid_encode(a, b, grid), (x, table))


def all_derivatives(grid, x, table, grad, toward_positions, toward_table):
    """The value, its gradients, and the gradients of <gradients, given directions>."""
    x, table, grad = (t.clone().requires_grad_() for t in (x, table, grad))
    y = hash_grid_encode(x, table, grid)
    grad_x, grad_table = torch.autograd.grad(y, (x, table), grad, create_graph=True)
    second = torch.autograd.grad(grad_x, (grad, x, table), toward_positions, retain_graph=True)
    mixed = torch.autograd.grad(grad_table, (grad, x), toward_table)
    return [t.detach() for t in (y, grad_x, grad_table, *second, *mixed)]


class TestNative:
    @pytest.mark.parametrize('interpolation', ['linear', 'smoothstep'])
    @pytest.mark.parametrize('features', COMPILED_FEATURES)
    @pytest.mark.parametrize('n', [0, 1, 255, 257, 1031])
    def test_equals_the_reference_up_to_second_derivatives(self, n, features, interpolation, backend, relative_error):
        grid = layout(features, interpolation)
        given = (points(n), torch.randn(grid.rows, features), torch.randn(n, grid.width))
        toward = (torch.randn(n, 3), torch.randn(grid.rows, features))
        backend('native')
        found = all_derivatives(grid, *given, *toward)
        backend('reference')
        expected = all_derivatives(grid, *given, *toward)
        assert max(map(relative_error, found, expected)) < 1e-5

    def test_equals_the_reference_at_full_size(self, backend, relative_error):
        grid = GridLayout.make(16, 2, 19, 16, 2048)
        x, table, grad = torch.rand(700, 3), torch.randn(grid.rows, 2), torch.randn(700, 32)
        results = []
        for name in ('native', 'reference'):
            backend(name)
            leaf = table.clone().requires_grad_()
            y = hash_grid_encode(x, leaf, grid)
            y.backward(grad)
            results.append((y.detach(), leaf.grad))
        assert max(map(relative_error, *results)) < 1e-4

    def test_equals_the_reference_over_several_chunks_of_points(self, backend, relative_error):
        grid = layout(levels=2)
        n = 131072 + 777  # csrc works on 131072 points at a time
        given = (points(n), torch.randn(grid.rows, 2), torch.randn(n, grid.width))
        toward = (torch.randn(n, 3), torch.randn(grid.rows, 2))
        backend('native')
        found = all_derivatives(grid, *given, *toward)
        backend('reference')
        expected = all_derivatives(grid, *given, *toward)
        assert max(map(relative_error, found, expected)) < 1e-4

    def test_three_features_use_the_reference(self, backend):
        grid = layout(features=3)
        backend('native')
        assert hash_grid_encode(points(5), torch.randn(grid.rows, 3), grid).shape == (5, grid.width)

    @pytest.mark.parametrize('n', [3001, 131072 + 300])  # one chunk of hash_grid_kernels.h, and a little more
    def test_same_bits_for_any_number_of_threads(self, n, backend, relative_error):
        backend('native')
        grid = layout()
        given = (points(n), torch.randn(grid.rows, 2), torch.randn(n, grid.width))
        toward = (torch.randn(n, 3), torch.randn(grid.rows, 2))
        before, results = torch.get_num_threads(), []
        for threads in (1, 2, 9):  # nine: more than there are levels, so that a level is shared out
            torch.set_num_threads(threads)
            results.append(all_derivatives(grid, *given, *toward))
        torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other))
        assert relative_error(results[0][0], hash_grid_reference(*given[:2], grid)) < 1e-4

    def test_inputs_need_not_be_contiguous(self, backend):
        backend('native')
        grid = layout()
        table = torch.randn(2, grid.rows).t()
        x = points(3 * 33).view(33, 9)[:, ::3]
        torch.testing.assert_close(hash_grid_encode(x, table, grid), hash_grid_reference(x, table, grid))

    def test_not_a_number_reads_no_memory_outside_the_table(self, backend):
        backend('native')
        grid = layout()
        x = torch.full((3, 3), torch.nan)
        x[1], x[2] = torch.inf, -torch.inf
        torch.testing.assert_close(hash_grid_encode(x, torch.ones(grid.rows, 2), grid), torch.ones(3, grid.width))

    def test_memory_is_used_again_only_when_free(self, needs_native):
        pool = Buffers()
        first = pool.take(10, 2)
        second = pool.take(10, 2)
        assert first.data_ptr() != second.data_ptr()
        address = first.data_ptr()
        view = first[3:]
        del first
        third = pool.take(10, 2)
        assert third.data_ptr() != address  # the view still holds it
        del view
        assert pool.take(9, 2).data_ptr() != address  # of another size
        assert pool.take(10, 2).data_ptr() == address
        assert pool.take(10, 2).data_ptr() == address  # what was used last is used first

    def test_memory_with_slack_is_used_for_what_is_nearly_as_large(self, needs_native):
        pool = Buffers(slack=1.25)
        address = pool.take(100, 2).data_ptr()
        for rows, same in ((100, True), (125, True), (80, True), (126, False), (79, False)):
            taken = pool.take(rows, 2)
            assert taken.shape == (rows, 2) and taken.is_contiguous()
            assert (taken.data_ptr() == address) == same, rows
            del taken

    def test_encodings_that_live_at_once_do_not_share_memory(self, backend):
        backend('native')
        grid = layout()
        table, x = torch.randn(grid.rows, 2), points(cpu_kernels.LARGE // grid.width + 1)
        first = hash_grid_encode(x, table, grid)
        copy = first.clone()
        second = hash_grid_encode(1 - x, table, grid)
        assert torch.equal(first, copy) and not torch.equal(first, second)
        address = first.data_ptr()
        del first
        assert hash_grid_encode(x, table, grid).data_ptr() == address

    def test_large_results_may_be_changed_in_place_whether_their_memory_is_new_or_not(self, backend):
        backend('native')
        grid = layout()
        table = torch.randn(grid.rows, 2, requires_grad=True)
        x = points(cpu_kernels.LARGE // grid.width + 1)
        cpu_kernels.encodings.storages.clear()
        for _ in range(2):
            encoded = hash_grid_encode(x, table, grid)
            (gradient,) = torch.autograd.grad(encoded.sum(), table, create_graph=True)
            gradient.mul_(2)
            table.grad = None
            encoded.mul_(2).sum().backward(inputs=[table])
            torch.testing.assert_close(table.grad, gradient.detach())
            del encoded, gradient

    def test_table_gradients_of_two_steps_do_not_share_memory(self, backend):
        backend('native')
        grid = layout()
        table = torch.randn(grid.rows, 2, requires_grad=True)
        gradients = []
        for _ in range(2):
            table.grad = None
            hash_grid_encode(points(9), table, grid).sum().backward()
            gradients.append(table.grad)
        copy = gradients[0].clone()
        hash_grid_encode(points(9), table, grid).sum().backward()
        assert torch.equal(gradients[0], copy)

    def test_the_gradient_of_the_table_keeps_its_address_over_steps(self, backend):
        """New memory for it in each step would cost more than the arithmetic on it."""
        backend('native')
        grid = layout()
        table = torch.randn(grid.rows, 2, requires_grad=True)
        optimizer, addresses, others = FusedAdan([table]), [], []
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            others.append(torch.empty_like(table))  # would take the memory, were it given back
            hash_grid_encode(points(9), table, grid).sum().backward()
            addresses.append(table.grad.data_ptr())
            optimizer.step()
        assert len(set(addresses)) == 1

    def test_operators_pass_opcheck(self, backend, assert_opcheck):
        backend('native')
        grid = layout(levels=3)
        x, table = points(7).requires_grad_(), torch.randn(grid.rows, 2, requires_grad=True)
        grad = torch.randn(7, grid.width, requires_grad=True)
        assert_opcheck(hash_grid_op, (x, table, *arguments(grid)))
        assert_opcheck(hash_grid_backward_table_op, (grad, x, *arguments(grid)))
        assert_opcheck(hash_grid_backward_positions_op, (grad, x, table, *arguments(grid)))
        plain = [t.detach() for t in (torch.randn(7, 3), grad, x, table)]
        assert_opcheck(hash_grid_double_backward_op, (*plain, *arguments(grid), [True, False, True]))

    def test_torch_compile_traces_through(self, backend):
        backend('native')
        grid = layout()
        compiled = torch.compile(lambda a, b: hash_grid_encode(a, b, grid) * 2, backend='aot_eager', fullgraph=True)
        x, table = points(9), torch.randn(grid.rows, 2, requires_grad=True)
        y = compiled(x, table)
        torch.testing.assert_close(y, 2 * hash_grid_reference(x, table, grid))
        y.sum().backward()
        assert table.grad.abs().sum() > 0
