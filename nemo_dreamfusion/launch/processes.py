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

"""Count the processes of a run, and compare them with those that a launcher has started, before Lightning waits for them.

Lightning reads the environment of torchrun, srun, jsrun and mpirun. What is left in a shell, or differs from what the run
asks for, would make it wait for processes that nobody starts, or make each process a run of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NoReturn

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import LightningEnvironment

ASKED = 'trainer.devices x trainer.num_nodes'
BY_SRUN = (
    'SLURM_STEP_ID',
    'SLURM_STEPID',
    'SLURM_STEP_NUM_TASKS',
    'SLURM_SRUN_COMM_HOST',
)  # set by srun, not by sbatch
OF_TASKS = (
    *('SLURM_NTASKS', 'SLURM_NPROCS', 'SLURM_NTASKS_PER_NODE', 'SLURM_TASKS_PER_NODE'),
    *('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NODEID'),
)
RANKS = ('RANK', 'LOCAL_RANK', 'NODE_RANK', 'GROUP_RANK')  # what NeMo and Lightning read


@dataclass(frozen=True)
class Launcher:
    """A program that starts the processes of a run, and the variables by which it tells each of them."""

    name: str
    size: str  # how many processes there are
    mark: str  # set only by this launcher
    needs: tuple[str, ...]
    package: str = ''  # without which Lightning does not see them


LAUNCHERS = (  # in Lightning's order
    Launcher('torchrun', 'WORLD_SIZE', 'TORCHELASTIC_RUN_ID', ('RANK', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')),
    Launcher('srun', 'SLURM_NTASKS', 'SLURM_NTASKS', ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NODEID')),
    Launcher(
        *('jsrun', 'JSM_NAMESPACE_SIZE', 'JSM_NAMESPACE_SIZE'),
        needs=('JSM_NAMESPACE_RANK', 'JSM_NAMESPACE_LOCAL_RANK', 'LSB_JOBID', 'LSB_DJOB_RANKFILE'),
    ),
    Launcher('mpirun', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_SIZE', ('OMPI_COMM_WORLD_RANK',), 'mpi4py'),
    Launcher('mpirun', 'PMI_SIZE', 'PMI_SIZE', ('PMI_RANK',), 'mpi4py'),
)


def count_processes(trainer: Mapping[str, Any]) -> int:
    """Return how many processes the ``trainer`` node asks for; ``devices: auto`` is what this machine has.

    Raises:
        Exception: Lightning's own, for a node that it refuses.
    """
    used = {key: trainer[key] for key in ('accelerator', 'devices') if trainer.get(key) is not None}
    trial = pl.Trainer(
        **used,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],  # with an environment of its own, Lightning reads no other
    )
    return trial.num_devices * (trainer.get('num_nodes') or 1)


def check_processes(asked: int, num_nodes: int) -> None:
    """Compare the processes that a run asks for with what the environment says.

    The variables of a Slurm allocation in which this process was started without srun are removed from ``os.environ``:
    they do not speak of this process, and those that Lightning starts would inherit them.

    Args:
        asked: ``trainer.devices`` times ``trainer.num_nodes``.
        num_nodes: the latter.

    Raises:
        ValueError: one sentence, when Lightning would wait for ever or make each process a run of its own.
    """
    if 'SLURM_NTASKS' in os.environ and 'TORCHELASTIC_RUN_ID' not in os.environ:
        _prepare_slurm(asked, num_nodes)
    for launcher in LAUNCHERS:
        if launcher.mark in os.environ:
            alone = _number(launcher.size) == 1 and launcher.name == 'mpirun'
            if not alone:
                return _check_launcher(launcher, asked)
    _check_without_launcher(asked, num_nodes)


def _prepare_slurm(asked: int, num_nodes: int) -> None:
    """Let the variables of Slurm say what srun has started, or remove them where it has started nothing."""
    by_srun = any(name in os.environ for name in BY_SRUN) or _number('SLURM_PROCID') > 0
    if os.environ.get('SLURM_JOB_NAME') in ('bash', 'interactive'):  # in which Lightning leaves Slurm out too
        by_srun = False
    tasks = _number('SLURM_STEP_NUM_TASKS' if by_srun and 'SLURM_STEP_NUM_TASKS' in os.environ else 'SLURM_NTASKS')
    if by_srun and tasks > 1:
        os.environ['SLURM_NTASKS'] = str(tasks)
        os.environ.setdefault('SLURM_NTASKS_PER_NODE', str(max(1, tasks // num_nodes)))  # Lightning insists on it
        return
    if num_nodes > 1:
        _refuse(
            f'trainer.num_nodes = {num_nodes} under Slurm needs srun, which starts the processes: '
            f'srun --nodes={num_nodes} --ntasks-per-node={max(1, asked // num_nodes)} <this command>'
        )
    in_slurm = asked == tasks == 1 and all(name in os.environ for name in ('SLURM_PROCID', 'SLURM_JOB_ID'))
    if not in_slurm:
        for name in OF_TASKS:
            os.environ.pop(name, None)


def _check_launcher(launcher: Launcher, asked: int) -> None:
    started = _number(launcher.size)
    missing = [name for name in (launcher.size, *launcher.needs) if name not in os.environ]
    if missing:
        _refuse(
            f'{launcher.mark} is set, as by {launcher.name}, and {missing[0]} is not: start the command with '
            f'{launcher.name}, or unset {launcher.mark}'
        )
    if started != asked:
        _refuse(
            f'{launcher.name} has started {started} processes ({launcher.size}), and {ASKED} is {asked}: make them the '
            f'same number, or start the command without {launcher.name} (unset {launcher.mark})'
        )
    if launcher.package and find_spec(launcher.package) is None:
        _refuse(
            f'{launcher.name} has started {started} processes ({launcher.size}), which Lightning sees only with '
            f'{launcher.package}: pip install {launcher.package}, or start the command with torchrun'
        )


def _check_without_launcher(asked: int, num_nodes: int) -> None:
    """Check what a user, Kubeflow or Lightning itself has set, or what is left of something else."""
    if asked == 1:
        for name in RANKS:
            if _number(name) > 0:
                _refuse(f'{name} = {os.environ[name]} is set, and {ASKED} is 1: unset {name}')
    if _number('WORLD_SIZE', 1) > 1 and not {'LOCAL_RANK', 'NODE_RANK'} & set(os.environ):
        _refuse(
            f'WORLD_SIZE = {os.environ["WORLD_SIZE"]} is set, and nothing says which of these processes this one is: start '
            'the command with torchrun, as Kubeflow and others expect, or unset WORLD_SIZE'
        )
    if asked > 1 and 'LOCAL_RANK' in os.environ:  # Lightning takes it that all processes are started for it
        missing = [name for name in ('WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
        if missing or _number('WORLD_SIZE') != asked:
            said = f'{missing[0]} is not' if missing else f'WORLD_SIZE is {os.environ["WORLD_SIZE"]}'
            _refuse(
                f'LOCAL_RANK is set, so that Lightning starts no processes, {said}, and {ASKED} is {asked}: unset '
                'LOCAL_RANK, or start the command with torchrun'
            )
    missing = [name for name in ('MASTER_ADDR', 'MASTER_PORT', 'NODE_RANK') if name not in os.environ]
    if num_nodes > 1 and missing:
        _refuse(
            f'trainer.num_nodes = {num_nodes}, and {missing[0]} is not set: start the command on each node with torchrun '
            f'--nnodes={num_nodes} or srun, or set trainer.num_nodes=1'
        )


def _number(name: str, default: int = 0) -> int:
    value = os.environ.get(name, str(default))
    try:
        return int(value)
    except ValueError:
        _refuse(f'{name} = {value!r} is set, and is no number: unset {name}')


def _refuse(text: str) -> NoReturn:
    raise ValueError(f'{text}.')
