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

"""The benchmark of full-size steps, with small networks and an image of four by four pixels."""

import argparse
import json

import pytest
import torch


def test_a_way_is_measured_and_reported(module, tmp_path):
    full_size = module('full_size')
    full_size.WARM_UP = 3
    full_size.time_calls = lambda run, repeats, calls=1: (run(), 0.25)[1]
    full_size.shares = lambda step: (step(), {'encode': 1.5})[1]
    full_size.Step.__init__.__kwdefaults__['side'] = 4
    device = torch.device('cpu')
    found = full_size.measure(full_size.build_guidance(device, compile=False, small=True), device, 1)
    for losses in found['losses'].values():
        assert len(losses) == len(set(losses)) == 3 and all(0 < loss < 1e6 for loss in losses)
    assert set(found['parts_s']) == {'UNet', 'VAE encoder'} and found['samples'] > 0

    full_size.write_report({'eager': found}, device, argparse.Namespace(repeats=1, out=tmp_path))
    assert json.loads((tmp_path / 'cpu-full-size.json').read_text(encoding='utf-8'))['ways'] == {'eager': found}
    table = (tmp_path / 'cpu-full-size.md').read_text(encoding='utf-8')
    assert '| step, image phase [ms] | 250.0 |' in table and '| ... ... encode | 1.50 |' in table
    assert '| VAE encoder alone [ms] | 250.00 |' in table

    full_size.check_equal({'eager': found, 'compiled': found})
    other = found | {'losses': {phase: [1.1 * x for x in xs] for phase, xs in found['losses'].items()}}
    with pytest.raises(SystemExit, match='compiled, latent phase'):
        full_size.check_equal({'eager': found, 'compiled': other})
