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

"""The Triton kernels on the CPU: numbers under Triton's interpreter, and that the kernels compile. Speed needs a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='triton is not installed'),
]

HERE = Path(__file__).parent


def run_script(name, **environment):
    """What a script of this folder prints last, as JSON."""
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(HERE.parents[1]), *sys.path])} | environment
    command = [sys.executable, str(HERE / name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_triton_equals_the_reference():
    errors = run_script('compare_triton.py', TRITON_INTERPRET='1')
    assert len(errors) == 35
    assert {name: error for name, error in errors.items() if not error < 1e-4} == {}


@pytest.mark.gpu
def test_triton_equals_the_reference_on_a_gpu():
    errors = run_script('compare_triton.py', TRITON_INTERPRET='0')
    assert {name: error for name, error in errors.items() if not error < 1e-4} == {}


def test_every_kernel_compiles_for_gpus(tmp_path):
    forms = run_script('compile_triton.py', TRITON_INTERPRET='0', TRITON_CACHE_DIR=str(tmp_path))
    assert forms == {
        '_grid_kernel': 2 * 4,  # interpolations, modes
        '_table_gradient_kernel': 2 * 2,
        '_forward_kernel': 2 * 2,  # sizes, with and without the encoded points
        '_backward_kernel': 2 + 1,  # networks of the two sizes
        '_march_kernel': 2,
        '_weights_kernel': 1,
        '_weights_backward_kernel': 1,
        '_accumulate_kernel': 2 * 2,
        '_adan_kernel': 1,
    }
