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

"""benchmarks/run.py as a user runs it, on the cheapest row."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'benchmarks' / 'run.py'


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_row_is_written_where_it_is_asked_for(tmp_path):
    done = run('--rows', 'composite_forward_backward', '--repeats', '1', '--no-profile', '--out', str(tmp_path))
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob('*.json')
    found = json.loads(path.read_text(encoding='utf-8'))
    assert {'machine', 'rows', 'skipped'} == set(found)
    assert found['machine']['threads'] == found['machine']['cores']
    assert 'torch reference' in [row['other'] for row in found['rows']]
    for row in found['rows']:
        assert row['name'] == 'composite_forward_backward'
        assert row['ours_s'] > 0 and row['other_s'] > 0 and row['ratio'] == row['other_s'] / row['ours_s']
        assert all(error < 1e-4 for error in row['differences'].values())
    assert f'**{found["rows"][0]["ratio"]:.1f}**' in path.with_suffix('.md').read_text(encoding='utf-8')


def test_the_rows_that_are_promised_are_known_and_a_part_takes_no_whole_result_s_place(module, monkeypatch):
    bench = module('run')
    names = {'hash_grid_forward_backward', 'field_with_normals', 'training_step_without_guidance', 'fused_adan'}
    assert names <= set(bench.CASES)

    def out(*arguments):
        monkeypatch.setattr(sys, 'argv', ['run.py', *arguments])
        return bench._options().out

    assert out() == bench.RESULTS == ROOT / 'benchmarks' / 'results'
    assert out('--rows', 'fused_adan') is None
    assert out('--no-profile') is None
    assert out('--threads', str(bench.CORES + 1)) is None
    assert out('--rows', 'fused_adan', '--out', 'there') == Path('there')


def test_on_a_gpu_the_one_kernel_for_grid_and_networks_is_a_row_of_its_own(module):
    scene, measure = module('scene'), module('measure')
    on_a_gpu, here = (scene.one_triton_kernel(torch.device(name), dict) for name in ('cuda', 'cpu'))
    assert isinstance(on_a_gpu, measure.Way) and on_a_gpu.backend == 'triton'
    assert isinstance(here, measure.Skipped)
    assert {'grid_networks_full_size', 'grid_networks_main_job'} <= set(module('run').CASES)


def test_a_processor_without_a_name_has_one(module):
    name = module('run').processor_name
    assert name('processor : 0\nmodel name\t: AMD EPYC \nflags : x\n') == 'AMD EPYC'
    assert name('processor : 0\nBogoMIPS : 50.00\n') and name('')


def test_the_peak_of_a_process_is_its_own(module):
    """A process inherits the peak of the one that started it, as far as getrusage knows."""
    hoard = b'x' * (600 * 2**20)
    code = 'import torch, memory; print(memory.peak_mib(torch.device("cpu")))'
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | {'PYTHONPATH': str(SCRIPT.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(hoard) and float(done.stdout) < 550


def test_the_report_shows_every_part(module, tmp_path):
    report = module('report')
    parts = module('profile_step').PARTS
    row = {'name': 'a', 'setting': 'b', 'ours_s': 1, 'other': 'c', 'other_s': 2, 'ratio': 2.0, 'cpu_ratio': 2.0}
    found = {
        'machine': {
            **{'device': 'A Chip', 'cores': 2, 'threads': 2, 'load_before': 0.0, 'instruction_set': 'avx2'},
            **{'torch': '2', 'python': '3'},
        },
        'rows': [row | {'repeats': 1, 'differences': {'x': 1e-6}}, row | {'repeats': 1, 'differences': {}}],
        'skipped': [{'name': 'a', 'other': 'd', 'reason': 'not installed'}],
        'step_shares_ms': {'whole': dict.fromkeys(parts, 1.0)},
        'samples_per_second': 1e3,
        'peak_memory_mib': {'torchngp, 512 x 512': {'before': 1.0, 'after': 2.0}},
        'growth': [{'step': '32 x 32', 'seconds': 0.1, 'samples': 7}],
    }
    report.write(found, tmp_path)
    text = (tmp_path / 'a-chip-2-cores-avx2.md').read_text(encoding='utf-8')
    for wanted in (
        '1.0e-06 (x)',
        'time only',
        'a by d: not installed',
        '| guidance | 1.0 |',
        '| torchngp, 512 x 512 | 1 | 2 |',
    ):
        assert wanted in text
    assert re.search(r'\| all \| 7.0 \|', text) and (tmp_path / 'a-chip-2-cores-avx2.svg').exists()
