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

"""The main command with two processes: what it leaves, what stops it, and how it goes on.

The command itself, as a user types it and Lightning starts the second process, is run twice, and once by torchrun. The rest
is done by pairs of forks of a process that has imported everything, which are told what Lightning tells the processes that
it starts; what it has to do with them itself is in tests/launch/test_fail_together.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import open_dict
from reliability import fits
from small_model import SMALL
from two_processes import free_port

from nemo_dreamfusion.launch import fitting
from nemo_dreamfusion.models.dreamfusion import DreamFusion

SCRIPT = fits.ROOT / 'examples' / 'dreamfusion.py'
STEPS = 12
COMMAND = [
    *('--config-name', 'dreamfusion', *SMALL, 'trainer.devices=2', f'trainer.max_steps={STEPS}'),
    'model.prompt=a red cube',
    *('model.renderer.max_steps=16', 'model.data.val.height=16', 'model.data.val.width=16', 'mesh_resolution=8'),
    *('preview_interval=4', 'exp_manager.checkpoint_callback_params.every_n_train_steps=2'),
    *('exp_manager.ema.enable=true', '+exp_manager.seconds_to_sleep=0'),
]
NODES = ['trainer.devices=1', 'trainer.num_nodes=2']
LEFT = {
    *(
        'DreamFusion.nemo',
        'checkpoints',
        'cmd-args.log',
        'config.yaml',
        'hparams.yaml',
        'lightning_logs.txt',
        'mesh.glb',
    ),
    *('metrics.json', 'nemo_error_log.txt', 'preview.png', 'turntable.mp4', 'validation', 'validation.png'),
    *('.lock', 'report.html', 'relit.mp4', 'stills', 'turntable.webp'),
}


# The command itself


def start(base, *overrides, by=()):
    """The command, with its output in a file, as the leader of a group of processes."""
    environment = {**os.environ, 'PYTHONPATH': str(fits.ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, *by, str(SCRIPT), *COMMAND, f'exp_manager.exp_dir={base}', *overrides]
    with (base / 'log').open('ab') as log:
        streams = {'stdin': subprocess.DEVNULL, 'stdout': log, 'stderr': log}
        return subprocess.Popen(command, cwd=base, env=environment, start_new_session=True, **streams)


def end(process):
    """Its exit code; nothing of its group is left."""
    try:
        return process.wait(timeout=240)
    finally:
        for _ in range(100):  # the second process ends a moment after the first
            if not running(process.pid):
                break
            time.sleep(0.1)
        else:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail('a process was left')


def running(group):
    """Whether any process of the group runs (one that has ended, and nobody asked for its code, does not)."""
    for path in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has ended meanwhile
            state, _, its_group, *_ = path.read_text().rpartition(')')[2].split()
            if int(its_group) == group and state != 'Z':
                return True
    return False


def kill(*processes):
    """Nothing of their groups is left, whatever a test has come to."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def interrupt(base, process):
    """SIGTERM to the whole group, as a terminal or Slurm sends it, once there is a checkpoint."""
    end_of_patience = time.monotonic() + 240
    while not list(base.glob('*/checkpoints/*-last.ckpt')) and process.poll() is None:
        assert time.monotonic() < end_of_patience
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)


def said(base):
    return (base / 'log').read_text().replace('\r', '\n')


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """The folders of a run that nothing stopped and of one that was stopped, and the latter's exit code."""
    whole, stopped = tmp_path_factory.mktemp('whole'), tmp_path_factory.mktemp('stopped')
    processes = [start(folder) for folder in (whole, stopped)]
    try:
        interrupt(stopped, processes[1])
        code = end(processes[1])
        assert end(processes[0]) == 0, said(whole)[-3000:]
    finally:
        kill(*processes)
    return whole, stopped, code


def state_of(base):
    """All that the newest checkpoint holds, but the global random states: with several processes they are not restored."""
    state = fits.comparable(fits.last_checkpoint(base))
    del state['random_state']
    return state


def assert_one_of_each(base, *more):
    """The files of one run, and nothing beside them."""
    folder = fits.folder_of(base)
    names = {path.name for path in folder.iterdir() if not path.name.startswith('events.out.')}
    assert names == {*LEFT, *more}
    assert len(list((folder / 'validation').iterdir())) == 4
    assert sorted(path.suffix for path in (folder / 'checkpoints').iterdir()) == ['.ckpt', '.previous']
    assert json.loads((folder / 'metrics.json').read_text())['steps'] == STEPS
    average = fits.last_checkpoint(base)['callbacks']['MovingAverage']['average']
    model = DreamFusion.restore_from(folder / 'DreamFusion.nemo', map_location='cpu')
    assert all(torch.equal(value, average[name]) for name, value in model.named_parameters())


@pytest.mark.slow
def test_two_processes_leave_one_of_each_and_say_it_once(command):
    whole, _, _ = command
    assert_one_of_each(whole)
    assert len(list(fits.folder_of(whole).glob('events.out.*'))) == 1
    for words, times in (('Done: ', 1), ('linear latent map', 1), ('Traceback', 0), ('error: ', 0), ('Warning:', 0)):
        assert said(whole).count(words) == times, words


@pytest.mark.slow
def test_a_signal_to_both_saves_and_torchrun_on_two_nodes_ends_the_same(command):
    whole, stopped, code = command
    assert code == 143
    step = fits.last_checkpoint(stopped)['global_step']
    assert 2 <= step < STEPS and said(stopped).count(f'Stopped at step {step}') == 1
    assert said(stopped).count('SIGTERM: finishing this step') == 1 and 'Traceback' not in said(stopped)
    assert not fits.ends(stopped)
    meet = ['--nnodes=2', '--nproc-per-node=1', '--master-addr=127.0.0.1', f'--master-port={free_port()}']
    by = ['-m', 'torch.distributed.run', *meet]
    nodes = [start(stopped, *NODES, by=[*by, f'--node-rank={k}']) for k in (0, 1)]
    try:
        assert [end(node) for node in nodes] == [0, 0], said(stopped)[-3000:]
    finally:
        kill(*nodes)
    assert fits.differences(state_of(whole), state_of(stopped)) == []
    assert_one_of_each(stopped, 'run_0')
    assert said(stopped).count('Done: ') == 1 and 'Traceback' not in said(stopped)


# Pairs of forks


def tiny(base, *overrides):
    """fits.tiny for two processes, with no noise but the steps' own."""
    both = ('trainer.devices=2', '+exp_manager.seconds_to_sleep=0', 'trainer.max_steps=12', *overrides)
    cfg = fits.tiny(base, *both)
    with open_dict(cfg):
        cfg.model.guidance.of_torch = False
    return cfg


def as_rank(rank, port, before):
    """This process is one of two."""
    here = {'LOCAL_RANK': rank, 'NODE_RANK': 0, 'WORLD_SIZE': 2, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    os.environ.update({name: str(value) for name, value in here.items()})
    before()


def pair(cfg, before=fits.nothing, of_second=fits.nothing):
    """The exit codes of two processes of one run."""
    port, log = free_port(), Path(cfg.exp_manager.exp_dir) / 'log'
    actions = [partial(as_rank, rank, port, action) for rank, action in enumerate((before, of_second))]
    processes = [fits.started(partial(fits.run, cfg, 1, action), log) for action in actions]
    try:
        return [fits.wait(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


def dawdle(batch):
    """This process takes longer than a second for a batch."""

    class Dawdle(fits.Recorder):
        def on_train_batch_start(self, trainer, *arguments):
            if trainer.fit_loop.total_batch_idx == batch - 1:
                time.sleep(1.2)

    fitting.make_preview = lambda cfg, folder: Dawdle(folder)


def fail_at(batch, error):
    """This process has an error within a batch."""

    class Fail(fits.Recorder):
        def on_train_batch_start(self, trainer, *arguments):
            if trainer.fit_loop.total_batch_idx == batch - 1:
                raise error

    fitting.make_preview = lambda cfg, folder: Fail(folder)


def linger():
    """This process takes more than a second after its last step; the other must not go on until then."""

    class Linger(fits.Recorder):
        def on_fit_end(self, trainer, pl_module):
            time.sleep(1.2)
            assert not Path('gone on').exists()

    fitting.make_preview = lambda cfg, folder: Linger(folder)


def tell():
    """This process leaves a file when it goes on after its fit."""
    is_complete = fitting.is_complete

    def telling(trainer):
        Path('gone on').touch()
        return is_complete(trainer)

    fitting.is_complete = telling


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    """The folder of a run of 12 steps that nothing stopped."""
    base = tmp_path_factory.mktemp('unbroken')
    assert pair(tiny(base)) == [0, 0], said(base)[-3000:]
    return base


@pytest.mark.slow
@pytest.mark.parametrize(
    ('of_first', 'of_second', 'codes'),
    [
        (signal.SIGINT, signal.SIGINT, [130, 130]),  # Ctrl-C
        (signal.SIGTERM, None, [143, 143]),  # as `kill` does
    ],
)
def test_a_signal_to_both_or_to_one_stops_both_and_the_same_command_ends_the_same(
    unbroken, tmp_path, of_first, of_second, codes
):
    stops = [partial(fits.stop_at, 5, number) if number else fits.nothing for number in (of_first, of_second)]
    assert pair(tiny(tmp_path), *stops) == codes, said(tmp_path)[-3000:]
    assert fits.last_checkpoint(tmp_path)['global_step'] == 5 and not fits.ends(tmp_path)
    assert said(tmp_path).count('Stopped at step 5') == 1
    assert pair(tiny(tmp_path)) == [0, 0], said(tmp_path)[-3000:]
    assert fits.differences(state_of(unbroken), state_of(tmp_path)) == []
    assert fits.metrics_of(unbroken) == fits.metrics_of(tmp_path)


@pytest.mark.slow
def test_a_run_out_of_time_stops_on_both_and_goes_on(unbroken, tmp_path):
    limit = '+exp_manager.max_time_per_run=00:00:00:01'
    late = partial(dawdle, 5)  # the first process's clock decides
    assert pair(tiny(tmp_path, limit), late) == [75, 75], said(tmp_path)[-3000:]
    assert said(tmp_path).count('Out of time at step') == 1 and not fits.ends(tmp_path)
    assert pair(tiny(tmp_path)) == [0, 0], said(tmp_path)[-3000:]
    assert fits.differences(state_of(unbroken), state_of(tmp_path)) == []


@pytest.mark.slow
def test_an_error_in_one_process_ends_both(tmp_path):
    assert pair(tiny(tmp_path), of_second=partial(fail_at, 5, OSError('no such luck'))) == [1, 74]
    # The connection of the first one broke
    for words in ('error: ', 'error: no such luck (When it does not work: ', 'Traceback', 'RuntimeError: '):
        assert said(tmp_path).count(words) == 1, words


@pytest.mark.slow
def test_the_second_waits_while_the_first_leaves_its_results(tmp_path):
    """Else Lightning and torchrun would kill the first, since the second has an exit code that is not 0."""
    epoch = ('+trainer.max_epochs=1', '+trainer.limit_train_batches=3')
    assert pair(tiny(tmp_path, *epoch), linger, tell) == [75, 75], said(tmp_path)[-3000:]
    assert said(tmp_path).count('Stopped at step 3 of 12') == 1 and 'Traceback' not in said(tmp_path)
    assert (tmp_path / 'gone on').exists()


@pytest.mark.slow
def test_other_settings_are_refused_in_one_line_before_a_second_process_is_started(unbroken):
    for overrides, words in ((['model.optim.lr=2e-2'], 'lr: 0.01 then'), (['model.optim.lr=-1'], 'lr = -1 is not')):
        log = unbroken / 'refused'
        assert fits.finish(tiny(unbroken, *overrides), log) == 2
        assert words in log.read_text() and log.read_text().count('\n') == 1
        log.unlink()
