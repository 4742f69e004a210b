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
# See the License for the gridific language governing permissions and
# limitations under the License.

"""Run by test_triton.py: compiles every Triton kernel to a GPU's machine code, with the arguments that our functions pass.

It needs no GPU: a launch is replaced by compilation for the kinds of argument it was given. Prints, as JSON, for each
kernel in how many forms it was compiled.
"""

import json
from collections import Counter

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from nemo_dreamfusion.ops.adan import AdanCoefficients
from nemo_dreamfusion.ops.backends.triton import adan, compositing, grid_networks, hash_grid, marching
from nemo_dreamfusion.ops.hash_grid import INTERPOLATIONS, GridLayout

TARGETS = [GPUTarget('cuda', 80, 32), GPUTarget('cuda', 90, 32)]  # A100, H100
seen = set()


def compile_only(kernel, *given, grid, warmup, **options):
    """Stands for JITFunction.run."""
    values = dict(zip(kernel.arg_names, given, strict=True))
    constants = {p.name: values[p.name] for p in kernel.params if p.is_constexpr}
    signature = {name: 'constexpr' if name in constants else mangle_type(value) for name, value in values.items()}
    form = (kernel.__name__, *signature.values(), *constants.values())
    if form in seen:
        return
    seen.add(form)
    for target in TARGETS:
        compiled = triton.compile(ASTSource(kernel, signature, constants), target=target, options=options)
        assert compiled.asm['cubin']
        # Fused, the products and sums would round otherwise than the reference, which then keeps other samples.
        assert options.get('enable_fp_fusion', True) or 'fma.' not in compiled.asm['ptx']


def through_networks(grid, hidden, outputs):
    """Call the functions for a network of each number of outputs, as the fields of nemo_dreamfusion/conf have them."""
    widths = [[grid.width, *hidden, last] for last in outputs]
    networks = [([torch.rand(b, a) for a, b in zip(w, w[1:])], [torch.rand(b) for b in w[1:]]) for w in widths]
    x, table = torch.rand(5, 3), torch.rand(grid.rows, 2)
    for keep in (False, True):
        encoded, found = grid_networks.grid_networks_forward(x, table, grid, grid.levels, 1.0, networks, keep)
    grid_networks.grid_networks_backward(found, x, encoded, grid, grid.levels, 1.0, networks)


def launch_everything():
    """Call every function, in each form of its arguments (of the grid, with rows of two features)."""
    x, d, offsets = torch.rand(5, 3), torch.rand(5), torch.tensor([0, 2, 5])
    grid = GridLayout.make(2, 2, 8, 3, 9)
    table, grad = torch.rand(grid.rows, 2), torch.rand(5, grid.width)
    for interpolation in INTERPOLATIONS:
        grid = GridLayout.make(2, 2, 8, 3, 9, interpolation)
        hash_grid.hash_grid_forward(x, table, grid)
        hash_grid.hash_grid_backward_table(grad, x, grid)
        hash_grid.hash_grid_backward_positions(grad, x, table, grid)
        hash_grid.hash_grid_double_backward(x, grad, x, table, grid, (True, True, True))
    through_networks(GridLayout.make(8, 2, 8, 3, 30), (32,), outputs=(1, 3))
    through_networks(GridLayout.make(16, 2, 8, 3, 30), (64, 64), outputs=(3,))
    compositing.weights_forward(d, d, d + 1, offsets)
    compositing.weights_backward(d, None, d, d, d + 1, offsets, d, d)
    for values in (None, x):
        compositing.accumulate_forward(d, values, offsets)
        compositing.accumulate_backward(torch.rand(2, 3), d, values, offsets, (True, True))
    adan.adan_step((d,) * 6, AdanCoefficients(*[0.5] * 9), torch.tensor(1.0))
    # Nothing is counted here: as if each of the five rays had one sample.
    full = torch.ones(4, 4, 4, dtype=torch.bool)
    marching.march(x, x, d, full, 1.0, 0.1, 10, 35, lambda counts: (torch.arange(6), 5))


if __name__ == '__main__':
    JITFunction.run = compile_only
    launch_everything()
    print(json.dumps(Counter(form[0] for form in seen)))
