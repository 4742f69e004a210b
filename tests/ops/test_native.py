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

"""The choice of a backend, and what happens where the library was not built."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.ops.adan import FusedAdan
from nemo_dreamfusion.ops.backends import select
from nemo_dreamfusion.ops.backends.cpu.library import INTERFACE_VERSION, library
from nemo_dreamfusion.ops.compositing import accumulate, render_weights
from nemo_dreamfusion.ops.hash_grid import GridLayout, hash_grid_encode
from nemo_dreamfusion.ops.marching import march_rays
from nemo_dreamfusion.ops.mlp import MLP, relu_mlp
from nemo_dreamfusion.parts.optional import MissingPackageError
from nemo_dreamfusion.parts.types import Samples

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def one_ray(n: int) -> Samples:
    """n samples on one ray."""
    starts = torch.arange(n) * 0.1
    return Samples(torch.zeros(n, dtype=torch.int64), starts, starts + 0.1, torch.tensor([0, n]))


def test_constants_of_the_compiler_are_marked_as_torch_marks_them():
    def of_torch():
        return None

    torch.compiler.assume_constant_result(of_torch)
    for ours in (select.mode, select._has_library, select._has_triton, select._forced_triton_takes):
        assert vars(ours) == vars(of_torch) != {}


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        env=os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_the_library_the_reference_runs_with_one_warning(tmp_path):
    """A copy of the package without the library."""
    code = """
        import os, pathlib, shutil, sys
        source, target = pathlib.Path(os.environ['SOURCE']), pathlib.Path(os.environ['TARGET'])
        for name in ('__init__.py', 'package_info.py', 'parts', 'ops'):
            path = source / name
            ignore = shutil.ignore_patterns('*.so', '__pycache__')
            if path.is_dir():
                shutil.copytree(path, target / 'nemo_dreamfusion' / name, ignore=ignore)
            elif path.exists():
                (target / 'nemo_dreamfusion').mkdir(exist_ok=True)
                shutil.copy(path, target / 'nemo_dreamfusion')
        sys.path.insert(0, str(target))
        import torch
        from nemo_dreamfusion.ops import hash_grid
        from nemo_dreamfusion.ops.backends import select
        assert str(target) in hash_grid.__file__
        grid = hash_grid.GridLayout.make(2, 2, 8, 3, 9)
        for _ in range(3):
            hash_grid.hash_grid_encode(torch.rand(5, 3), torch.rand(grid.rows, 2), grid)
        print(select.backend(torch.zeros(1)))
    """
    done = run_python(code, SOURCE=str(ROOT / 'nemo_dreamfusion'), TARGET=str(tmp_path), NEMO_DREAMFUSION_OPS='')
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['reference']
    assert done.stderr.count('UserWarning') == 1
    assert 'g++' in done.stderr and 'pip install' in done.stderr


@pytest.mark.parametrize('name', ['reference', 'native'])
def test_the_variable_forces_a_backend(name, backend):
    backend(name)
    assert select.backend(torch.zeros(1)) == name


def test_a_wrong_value_is_refused_with_what_is_allowed(monkeypatch):
    monkeypatch.setenv(select.VARIABLE, 'natvie')
    with refusal(select.VARIABLE, 'natvie', 'native'):
        select.backend(torch.zeros(1))


def test_float64_uses_the_reference(backend):
    backend('native')
    assert select.backend(torch.zeros(1, dtype=torch.float64)) == 'reference'


needs_triton = pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='triton is not installed')


@needs_triton
@pytest.mark.parametrize('mode', ['auto', 'triton'])
def test_nothing_takes_triton_on_the_cpu_without_its_interpreter(mode, backend, monkeypatch):
    """Its driver finds no GPU there: «0 active drivers»."""
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    backend(mode)
    assert select.backend(torch.zeros(1)) != 'triton'
    weights, _ = render_weights(torch.rand(3), one_ray(3))
    assert accumulate(weights, None, one_ray(3), 1).isfinite().all()


@needs_triton
def test_the_interpreter_runs_triton_on_the_cpu(backend, monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    backend('triton')
    assert select.backend(torch.zeros(1)) == 'triton'
    assert select.backend(torch.zeros(1, dtype=torch.float64)) == 'reference'
    backend('auto')
    assert select.backend(torch.zeros(1)) != 'triton'


def test_triton_by_name_without_the_package_says_what_to_install(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)  # as if it were not there
    backend('triton')
    way_out = ('nemo_dreamfusion[triton]', f'{select.VARIABLE}=auto')
    with refusal(f'{select.VARIABLE}=triton', 'triton', *way_out, error=MissingPackageError):
        select.backend(torch.zeros(1))


def test_the_version_of_the_interface_is_the_sources():
    header = (ROOT / 'nemo_dreamfusion/ops/backends/csrc/library.cpp').read_text(encoding='utf-8')
    assert int(re.search(r'INTERFACE_VERSION = (\d+)', header)[1]) == INTERFACE_VERSION


@pytest.fixture
def instruction_set(needs_native):
    """Takes an instruction set by name, and the machine's best again afterwards."""
    loaded = library()
    best = loaded.instruction_set()

    def use(name: str) -> None:
        if not loaded.use_instruction_set(name.encode()):
            pytest.skip(f'this machine has no {name}')

    yield use
    loaded.use_instruction_set(best)


def mlp_gradients(inputs, weights, biases):
    """A network's value and its gradients to everything."""
    outputs = relu_mlp(inputs, weights, biases)
    return outputs.detach(), *torch.autograd.grad(outputs.square().sum(), [inputs, *weights, *biases])


@pytest.mark.parametrize('name', ['baseline', 'avx2', 'avx512'])
def test_every_instruction_set_equals_the_reference(name, instruction_set, backend, relative_error):
    instruction_set(name)
    grid = GridLayout.make(4, 2, 8, 3, 30)
    start, positions = torch.randn(grid.rows, 2), torch.rand(300, 3)
    widths = (20, 33, 16, 3)  # of the padding of no, some and all rows
    weights = [torch.randn(b, a, requires_grad=True) for a, b in zip(widths[:-1], widths[1:])]
    biases, inputs = [torch.randn(b, requires_grad=True) for b in widths[1:]], torch.randn(300, 20, requires_grad=True)
    results = []
    for which in ('native', 'reference'):
        backend(which)
        table, x = start.clone().requires_grad_(), positions.clone().requires_grad_()
        (hash_grid_encode(x, table, grid) ** 2).sum().backward()
        gradient = table.grad.clone()
        (slope,) = torch.autograd.grad((hash_grid_encode(x, table, grid) ** 2).sum(), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), (x, table))
        FusedAdan([table], lr=0.1).step()
        results.append((gradient, x.grad, *second, table.detach(), *mlp_gradients(inputs, weights, biases)))
    assert max(map(relative_error, *results)) < 1e-4


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_results_do_not_depend_on_the_default_type(backend, dtype):
    """Lightning changes torch's default type under 'bf16-true' and '64-true'; the library writes float32 all the same."""
    backend('native')
    rays = torch.tensor([[0.0, 0.0, 3.0]] * 50), torch.tensor([[0.0, 0.0, -1.0]] * 50)
    grid = GridLayout.make(2, 2, 8, 4, 8, 'linear')
    table, net = torch.rand(grid.offsets[-1], 2).requires_grad_(), MLP([4, 8, 3])

    def results():
        full = torch.ones(4, 4, 4, dtype=torch.bool)
        samples, _ = march_rays(*rays, full, bound=1.0, step_size=0.05, max_samples=60)
        features = hash_grid_encode(
            torch.linspace(0, 1, 3 * len(samples), dtype=torch.float32).view(-1, 3), table, grid
        )
        weights = render_weights(features[:, 0].contiguous(), samples)[0]
        linear = list(net)[::2]
        colours = relu_mlp(features, [layer.weight for layer in linear], [layer.bias for layer in linear])
        image = accumulate(weights, colours, samples, len(rays[0]))
        return [
            samples.starts,
            samples.ends,
            weights,
            image,
            *torch.autograd.grad(image.sum(), [table, net[0].weight]),
        ]

    expected = results()
    try:
        torch.set_default_dtype(dtype)
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [t.dtype for t in found] == [torch.float32] * len(found)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
