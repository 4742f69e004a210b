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

"""The benchmark of the networks' options, with small networks."""

import argparse
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType


@pytest.fixture
def run(module, monkeypatch, capsys):
    """Runs the benchmark once for some ways; its table by way."""

    def table(*ways):
        options = module('network_options')
        monkeypatch.setattr(options, 'time_calls', lambda run, repeats, calls=1: (run(), 0.25)[1])
        monkeypatch.setattr(options, 'device_seconds', lambda run: (run(), 0.125)[1])
        monkeypatch.setattr(options, 'DRAWS', 1)
        monkeypatch.setattr('sys.argv', ['network_options.py', '--small', '--repeats', '1', '--ways', *ways])
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        try:
            options.main()
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]
        rows = [line.strip('| ').split(' | ') for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
        return {name: cells for name, *cells in rows[2:]}

    return table


def test_each_way_has_its_times_and_its_errors(run):
    rows = run('bf16', 'bf16, VAE: blocks', 'FP8')
    errors = {}
    for way in ('bf16', 'bf16, VAE: blocks'):
        assert rows[way][:4] == ['250.00', '125.00', '250.00', '125.00']
        errors[way] = [float(cell.rstrip('%')) for cell in rows[way][4:]]
        assert 0 < errors[way][1] < 5  # bfloat16's rounding
    assert errors['bf16'][0] == errors['bf16, VAE: blocks'][0] > 0  # the same UNet
    assert len(rows['FP8']) == 1 and 'model.guidance.networks.fp8' in rows['FP8'][0]


def test_float32_has_no_error(module):
    options = module('network_options')
    options.DRAWS = 1
    device, arguments = torch.device('cpu'), argparse.Namespace(source=None, small=True)
    exact, again = (options.gradients(options.build(device, options.EXACT, arguments), device) for _ in range(2))
    for first, second in zip(exact, again, strict=True):
        assert torch.equal(first, second) and first.norm() > 0


def test_a_kernel_counts_once_and_not_again_as_its_operators_time(module):
    options = module('network_options')
    events = [
        SimpleNamespace(device_type=DeviceType.CPU, self_device_time_total=2e6, self_cpu_time_total=5e6),
        SimpleNamespace(device_type=DeviceType.CUDA, self_device_time_total=2e6, self_cpu_time_total=0),
    ]
    assert options.own_seconds(events, on_cuda=True) == 2 and options.own_seconds(events, on_cuda=False) == 5
