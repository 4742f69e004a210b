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

"""Two gloo processes against each other, and against one: what tests/two_processes.py left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from refusals import refusal
from small_model import small_config

from nemo_dreamfusion.models.dreamfusion import DreamFusion

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where all fits of two devices, of two «machines» that meet on the loopback, and of one were made, in one run."""
    base = tmp_path_factory.mktemp('distributed')
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, str(ROOT / 'tests' / 'two_processes.py'), str(base)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return base


def ranks(folder, scenario, fit=None):
    """What each of the two ranks had at the end."""
    found = [torch.load(folder / f'{scenario}-{rank}.pt') for rank in (0, 1)]
    return [result[fit] for result in found] if fit else found


def same(one, other, **tolerance):
    """Whether two states hold the same names and values."""
    compare = torch.equal if not tolerance else lambda a, b: torch.allclose(a.float(), b.float(), **tolerance)
    return one.keys() == other.keys() and all(compare(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(('scenario', 'fit'), [('one_node', 'plain'), ('two_nodes', None)])
def test_both_ranks_end_with_one_object_from_their_own_cameras(folder, scenario, fit):
    first, second = ranks(folder, scenario, fit)
    assert any(name.startswith('renderer.') and value.dtype == torch.bool for name, value in first['state'].items())
    assert same(first['state'], second['state'])
    assert first['iou'] == second['iou'] > 0.75
    assert not set(first['azimuths']) & set(second['azimuths'])
    assert not set(first['noise']) & set(second['noise'])
    assert first['loss'] == second['loss'] == pytest.approx((first['own_loss'] + second['own_loss']) / 2)


@pytest.mark.slow
def test_two_machines_are_two_devices(folder):
    assert same(ranks(folder, 'two_nodes')[0]['state'], ranks(folder, 'one_node', 'plain')[0]['state'])


@pytest.mark.slow
def test_gradients_are_the_mean_of_what_each_rank_would_have_alone(folder):
    """So two processes of one image each agree in expectation with one process of two."""
    together = ranks(folder, 'one_node', 'plain')[0]['gradients']
    alone = [single['gradients'] for single in torch.load(folder / 'alone.pt')['singles']]
    assert together.keys() == alone[0].keys() == alone[1].keys()
    for name, gradient in together.items():
        mean = (alone[0][name] + alone[1][name]) / 2
        assert torch.allclose(gradient, mean, rtol=1e-4, atol=1e-4 * mean.abs().max()), name
        assert not torch.allclose(alone[0][name], alone[1][name], rtol=1e-2, atol=0)


@pytest.mark.slow
def test_one_process_with_two_images_makes_as_good_an_object(folder):
    pair = torch.load(folder / 'alone.pt')['pair']
    assert len(pair['azimuths']) == 2 * len(ranks(folder, 'one_node', 'plain')[0]['azimuths'])
    assert pair['iou'] == pytest.approx(ranks(folder, 'one_node', 'plain')[0]['iou'], abs=0.05)


@pytest.mark.slow
def test_accumulated_micro_batches_have_cameras_of_their_own(folder):
    azimuths = torch.load(folder / 'alone.pt')['twice']['azimuths']
    assert len(azimuths) == len(set(azimuths)) == 2 * 2


@pytest.mark.slow
def test_a_sharded_optimizer_makes_the_same_steps_with_its_state_shared_out(folder):
    first, second = ranks(folder, 'one_node', 'sharded')
    assert same(first['state'], second['state'])
    # the sharded optimizer is not the fused one, which sums in another order: 5.6e-6 measured, where a step moves by 0.02
    assert same(first['state'], ranks(folder, 'one_node', 'plain')[0]['state'], atol=2e-5)
    parameters = sum(p.numel() for p in DreamFusion(small_config().model).parameters())
    assert min(first['held'], second['held']) > 0
    tensors = first['tensors'] + second['tensors']
    assert first['held'] + second['held'] == 2 * parameters + tensors  # two moments, and a step count for each tensor


@pytest.mark.slow
def test_a_sharded_optimizer_clips_over_all_ranks_and_resumes(folder):
    whole, resumed, adan = (ranks(folder, 'one_node', name)[0]['state'] for name in ('whole', 'resumed', 'adan'))
    assert same(whole, resumed, atol=1e-7)
    assert same(whole, adan, atol=1e-5)


@pytest.mark.slow
def test_all_ranks_leave_out_the_step_that_is_no_number_on_one(folder):
    first, second = ranks(folder, 'one_node', 'left_out')
    assert first['skipped'] == second['skipped'] == 1 and first['steps'] == second['steps'] == [4]
    assert same(first['state'], second['state']) and all(v.isfinite().all() for v in first['state'].values())


@pytest.mark.slow
def test_the_test_orbit_is_shared_out_and_put_together(folder):
    strip = Image.open(folder / 'plain' / 'test.png')
    assert strip.width == 3 * 128  # three views of 32 pixels, enlarged to where their labels fit
    names = sorted(path.name for path in (folder / 'plain' / 'test').iterdir())
    assert names == [f'azimuth{azimuth}_elevation+15.png' for azimuth in ('+000', '+120', '-120')]


def test_a_sharded_optimizer_alone_is_refused():
    model = DreamFusion(small_config('model.optim.name=sharded_adam').model)
    with refusal('model.optim.name', 'sharded_adam', 'trainer.devices', 'model.optim.name=adam'):
        model.setup_optimization()
