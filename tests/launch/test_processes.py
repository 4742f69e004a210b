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

"""The processes of a run against every environment that Lightning reads: known before the fit, in one sentence."""

import os
from contextlib import nullcontext

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from refusals import NO_VALUE, refusal

from nemo_dreamfusion.launch.processes import check_processes, count_processes
from nemo_dreamfusion.launch.run_folder import check_same_object

PREFIXES = ('SLURM_', 'LSB_', 'JSM_', 'OMPI_', 'PMI_', 'TORCHELASTIC_', 'MASTER_')
NAMES = ('RANK', 'LOCAL_RANK', 'NODE_RANK', 'GROUP_RANK', 'WORLD_SIZE')
ALLOCATION = {'SLURM_JOB_ID': '7', 'SLURM_JOB_NAME': 'many', 'SLURM_NNODES': '1'}
RANK_0 = {'SLURM_PROCID': '0', 'SLURM_LOCALID': '0', 'SLURM_NODEID': '0'}
TORCHRUN = {
    **{'TORCHELASTIC_RUN_ID': 'none', 'WORLD_SIZE': '2', 'RANK': '1', 'LOCAL_RANK': '1'},
    **{'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29500'},
}


@pytest.fixture
def environment():
    """Returns a function that replaces what launchers set; all is as before after the test."""
    before = dict(os.environ)

    def use(variables):
        for name in [name for name in os.environ if name.startswith(PREFIXES) or name in NAMES]:
            del os.environ[name]
        os.environ.update(variables)

    yield use
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize('asked', [1, 2])
@pytest.mark.parametrize('tasks', ['1', '2', '4'])
@pytest.mark.parametrize('ranks', [{}, RANK_0])
def test_an_allocation_without_srun_starts_what_is_asked_for(environment, asked, tasks, ranks):
    """salloc -n 4, or a batch script: Lightning would wait for processes that nobody starts."""
    environment({**ALLOCATION, **ranks, 'SLURM_NTASKS': tasks})
    check_processes(asked, 1)
    if SLURMEnvironment.detect():  # one process, of which Slurm says the same: it is warned before its end
        assert asked == 1 and tasks == '1' and SLURMEnvironment().world_size() == 1
    else:
        assert not LightningEnvironment().creates_processes_externally
        assert 'SLURM_PROCID' not in os.environ  # NeMo would take each process for that of this rank


def test_several_nodes_without_srun_are_refused(environment):
    environment({**ALLOCATION, **RANK_0, 'SLURM_NTASKS': '4'})
    with refusal('trainer.num_nodes', 2, 'srun', 'ntasks-per-node=2'):
        check_processes(4, 2)


@pytest.mark.parametrize(('tasks', 'asked', 'right'), [('2', 2, True), ('4', 1, False), ('4', 2, False)])
def test_what_srun_started_must_be_what_is_asked_for(environment, tasks, asked, right):
    environment({**ALLOCATION, **RANK_0, 'SLURM_NTASKS': tasks, 'SLURM_STEP_ID': '0', 'SLURM_STEP_NUM_TASKS': tasks})
    with nullcontext() if right else refusal('SLURM_NTASKS', tasks, 'srun', 'trainer.devices', asked):
        check_processes(asked, 1)
    if right:
        SLURMEnvironment().validate_settings(num_devices=asked, num_nodes=1)


def test_one_shell_of_srun_starts_its_own_processes(environment):
    """srun --pty bash in an allocation of four tasks."""
    environment({**ALLOCATION, **RANK_0, 'SLURM_NTASKS': '4', 'SLURM_STEP_ID': '0', 'SLURM_STEP_NUM_TASKS': '1'})
    check_processes(2, 1)
    assert not SLURMEnvironment.detect()


def test_an_interactive_allocation_leaves_no_rank(environment):
    environment({**ALLOCATION, **RANK_0, 'SLURM_NTASKS': '4', 'SLURM_JOB_NAME': 'interactive', 'SLURM_STEP_ID': '9'})
    check_processes(2, 1)
    assert 'SLURM_PROCID' not in os.environ


def test_torchrun_within_slurm_is_torchrun(environment):
    environment({**ALLOCATION, **RANK_0, 'SLURM_NTASKS': '1', **TORCHRUN})
    check_processes(2, 1)
    assert os.environ['SLURM_NTASKS'] == '1'


@pytest.mark.parametrize(
    ('variables', 'asked', 'key', 'value', 'way_out'),
    [
        (TORCHRUN, 1, 'WORLD_SIZE', 2, 'torchrun'),
        ({'TORCHELASTIC_RUN_ID': 'left'}, 1, 'TORCHELASTIC_RUN_ID', NO_VALUE, 'unset'),
        ({'JSM_NAMESPACE_SIZE': '4', 'JSM_NAMESPACE_RANK': '0'}, 4, 'JSM_NAMESPACE_SIZE', NO_VALUE, 'jsrun'),
        ({'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_RANK': '0'}, 1, 'OMPI_COMM_WORLD_SIZE', 4, 'mpirun'),
        ({'PMI_SIZE': '2', 'PMI_RANK': '0'}, 1, 'PMI_SIZE', 2, 'mpirun'),
        ({'WORLD_SIZE': '4', 'RANK': '0', 'MASTER_ADDR': 'a', 'MASTER_PORT': '1'}, 1, 'WORLD_SIZE', 4, 'torchrun'),
        ({'LOCAL_RANK': '0'}, 2, 'LOCAL_RANK', NO_VALUE, 'unset'),
        ({'RANK': '1'}, 1, 'RANK', 1, 'unset'),
        ({'SLURM_NTASKS': 'many'}, 1, 'SLURM_NTASKS', 'many', 'unset'),
    ],
)
def test_what_would_wait_or_run_twice_is_refused(environment, variables, asked, key, value, way_out):
    environment(variables)
    with refusal(key, value, way_out):
        check_processes(asked, 1)


def test_nodes_that_nothing_has_started_are_refused(environment):
    environment({})
    with refusal('trainer.num_nodes', 2, 'torchrun', 'srun'):
        check_processes(2, 2)


@pytest.mark.parametrize('variables', [{}, {'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'}])
@pytest.mark.parametrize('asked', [1, 2])
def test_no_launcher_or_one_process_is_right(environment, variables, asked):
    environment(variables)
    check_processes(asked, 1)


def test_the_processes_that_lightning_starts_pass(environment):
    environment({name: TORCHRUN[name] for name in ('LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')})
    os.environ['NODE_RANK'] = '0'
    check_processes(2, 1)


@pytest.mark.parametrize(('devices', 'count'), [('auto', 1), (2, 2), ('2', 2), (None, 1)])
def test_processes_are_counted_on_this_machine(environment, devices, count):
    environment({**ALLOCATION, 'SLURM_NTASKS': '4'})  # which is not read
    assert count_processes({'accelerator': 'cpu', 'devices': devices}) == count


def test_the_same_number_of_processes_is_the_same_run(tmp_path):
    def config(devices):
        return {'model': {}, 'trainer': {'devices': devices, 'accelerator': 'cpu'}}

    for one, other in [('auto', 1), (1, 'auto'), ('1', 'auto'), (None, 1)]:
        check_same_object(tmp_path, config(one), config(other))
    with refusal('trainer.devices x trainer.num_nodes', 1, 2, 'exp_manager.exp_dir'):
        check_same_object(tmp_path, config('auto'), config(2))
