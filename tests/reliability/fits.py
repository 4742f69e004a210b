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

"""Tiny real runs of examples/dreamfusion.py in processes of their own that can be stopped, killed and compared.

The processes are forks of one server that has imported everything (NeMo's imports take ten seconds) and never computes:
a fork of a process in which torch has started threads would wait for threads that it does not have.
"""

import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from omegaconf import DictConfig, open_dict
from small_model import TowardColour, small_config

from nemo_dreamfusion.callbacks.exact_resume import within_step
from nemo_dreamfusion.launch import command_line, fitting
from nemo_dreamfusion.parts.build import ALLOWED_PREFIXES
from nemo_dreamfusion.parts.safe_load import read_checkpoint
from nemo_dreamfusion.parts.types import GuidanceOutput

CHECKPOINT_BYTES = 166_000  # of these tiny models, about
NOT_COMPARED = ('dirpath', 'last_model_path', 'seconds', 'step_seconds', 'kth_value')  # of a callback's state
ROOT = Path(__file__).parents[2]
QUICK = [
    'preview_interval=100000',
    'mesh_resolution=8',
    'exp_manager.create_tensorboard_logger=false',
    'model.optim.lr=1e-2',
    'model.renderer.max_steps=16',
    'turntable_frames=6',
    'model.renderer.update_interval=3',
    'model.resolution=8',
    'model.latent_resolution=8',
    '++trainer.limit_val_batches=0',
]

if 'reliability.fits.' not in ALLOWED_PREFIXES:
    ALLOWED_PREFIXES.append('reliability.fits.')


class NoisyColour(TowardColour):
    """Pulls the image toward a colour, with noise from the step's generator and, if ``of_torch``, from torch's global one.

    From step ``nan_from`` on, its loss is not a number.
    """

    def __init__(self, *, nan_from: int = 10**9, of_torch: bool = True) -> None:
        super().__init__()
        self.nan_from, self.of_torch = nan_from, of_torch

    def prepare(self, prompts, device):
        super().prepare(prompts, device)
        self.embedding = torch.ones(3)

    def loss(self, render, cameras, *, step, progress, latent, generator):
        noise = torch.randn(render.image.shape, generator=generator)
        noise = noise + torch.randn(render.image.shape) if self.of_torch else noise
        loss = (render.image - self.color + 0.1 * noise).square().mean()
        loss = loss * float('nan') if step >= self.nan_from else loss
        none = torch.zeros(len(cameras), dtype=torch.int64)
        return GuidanceOutput(loss=loss, timesteps=none, gradient_norm=loss.detach())


def tiny(folder: Path, *overrides: str) -> DictConfig:
    """A configuration of the main example whose steps take milliseconds, with a checkpoint after each two."""
    every = 'exp_manager.checkpoint_callback_params.every_n_train_steps=2'
    cfg = small_config(*QUICK, every, f'exp_manager.exp_dir={folder}', *overrides)
    with open_dict(cfg):
        cfg.model.guidance = {'_target_': 'reliability.fits.NoisyColour', 'nan_from': 10**9}
    return cfg


class Recorder(pl.Callback):
    """Writes the metrics of each step in a file of the run's folder, and no pictures, which take longer than a tiny fit."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if within_step(trainer):
            return
        values = {name: value.item() for name, value in trainer.callback_metrics.items() if 'timing' not in name}
        path = self.folder / 'checkpoints' / 'steps.jsonl'
        path.parent.mkdir(exist_ok=True)
        with path.open('a') as file:
            file.write(json.dumps([trainer.global_step, values]) + '\n')


def nothing() -> None:
    """What most runs do before they start."""


def metrics_of(base: Path) -> dict[int, dict[str, float]]:
    """What each step logged; a step that was done again after a kill must have logged the same again."""
    steps: dict[int, dict[str, float]] = {}
    for line in (folder_of(base) / 'checkpoints' / 'steps.jsonl').read_text().splitlines():
        step, values = json.loads(line)
        assert steps.setdefault(step, values) == values, f'step {step} gave other numbers when it was done again'
    return steps


def stop_at(batch: int, number: int) -> None:
    """This process gets a signal within the given batch of its fit."""

    class Stop(Recorder):
        def on_train_batch_start(self, trainer, *arguments):
            if trainer.fit_loop.total_batch_idx == batch - 1:
                os.kill(os.getpid(), number)

    fitting.make_preview = lambda cfg, folder: Stop(folder)


def leave_metrics() -> None:
    """This process leaves the steps of its fit in metrics.json, as the command's own callback does."""

    class Metrics(Recorder):
        def on_fit_end(self, trainer, pl_module):
            (self.folder / 'metrics.json').write_text(json.dumps({'steps': trainer.global_step}))

    fitting.make_preview = lambda cfg, folder: Metrics(folder)


def run(cfg: DictConfig, threads: int = 1, before: Callable[[], None] = nothing) -> None:
    """Do what the command does with a configuration, in a process of its own; it records metrics, not pictures."""
    os.environ['TQDM_DISABLE'] = '1'
    fitting.make_preview = lambda cfg, folder: Recorder(folder)
    torch.set_num_threads(threads)
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(0)
    before()
    command_line.run_one(cfg)


def server() -> multiprocessing.context.ForkServerContext:
    """What starts the processes; it imports this module once."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # the server has no other way to this module
        patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, sys.path)))
        forkserver.ensure_running()
    return context


def started(action: Callable[[], None], log: Path) -> BaseProcess:
    """A process that runs ``action`` with its output in ``log``."""
    process = server().Process(target=_logged, args=(action, log))
    process.start()
    return process


def _logged(action: Callable[[], None], log: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    with log.open('ab', buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = open(2, 'w', buffering=1, closefd=False)
    logging.getLogger().handlers = [logging.StreamHandler(sys.stderr)]
    os.chdir(log.parent)  # in a repository NeMo writes a git-info.log of any size
    action()


def wait(process: BaseProcess, timeout: float = 120.0) -> int:
    """The exit code of a process; the negative number of the signal that ended it."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f'the process did not end in {timeout} s')
    return process.exitcode


def ends(base: Path) -> bool:
    """Is the run in ``base`` finished?"""
    return any(base.glob('*/DreamFusion.nemo'))


def kill_at_random(cfg: DictConfig, log: Path, kills: int, seed: int, threads: int = 1, steps: int = 2) -> int:
    """Runs until ``kills`` processes were killed, each up to ``steps`` steps on and a random moment later, or one ended.

    Returns how many were killed; each one after the first resumed what the one before it left. A run that ended before
    its kill, and left no finished object, fails.
    """
    chance, killed, base = random.Random(seed), 0, Path(cfg.exp_manager.exp_dir)
    while killed < kills:
        process, wanted = started(partial(run, cfg, threads), log), steps_done(base) + chance.randint(0, steps)
        while steps_done(base) < wanted and process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        if process.exitcode == 0 and ends(base):
            break
        assert process.exitcode == -signal.SIGKILL, f'exit code {process.exitcode}\n{log.read_text()[-2000:]}'
        killed += 1
    return killed


def steps_done(base: Path) -> int:
    """Steps that the run in ``base`` has recorded, with those that were done again."""
    return sum(path.read_bytes().count(b'\n') for path in base.glob('*/checkpoints/steps.jsonl'))


def die_while_writing(share: float) -> None:
    """The kernel kills this process in the middle of the next file that grows beyond ``share`` of a checkpoint."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    limit_file_size(share)


def limit_file_size(share: float) -> None:
    """Lets the writing of whatever is larger than ``share`` of a checkpoint fail, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * CHECKPOINT_BYTES), resource.RLIM_INFINITY))


def die_at(name: str, count: int) -> None:
    """This process is killed at its ``count``-th call of ``os.<name>``: 'fsync' before, 'replace' after the renaming."""
    original, calls = getattr(os, name), [0]

    def counted(*arguments):
        result = original(*arguments) if name == 'replace' else None
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result if name == 'replace' else original(*arguments)

    setattr(os, name, counted)


def finish(cfg: DictConfig, log: Path, threads: int = 1, before: Callable[[], None] = nothing) -> int:
    """A run in a process of its own, to its end; its exit code."""
    return wait(started(partial(run, cfg, threads, before), log))


def folder_of(base: Path) -> Path:
    """The one run's folder in ``base``."""
    (folder,) = [path for path in base.iterdir() if path.is_dir()]
    return folder


def last_checkpoint(base: Path) -> dict:
    """What the run's newest checkpoint holds."""
    (path,) = (folder_of(base) / 'checkpoints').glob('*-last.ckpt')
    return read_checkpoint(path)


def differences(one, other, where: str = '') -> list[str]:
    """Where two nested containers of plain data differ in any bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [where]
        return [found for key in one for found in differences(one[key], other[key], f'{where}/{key}')]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [where]
        if where.endswith('random_state'):
            return [] if one == other else [where]
        return [found for i, pair in enumerate(zip(one, other)) for found in differences(*pair, f'{where}/{i}')]
    return [] if one == other or (one != one and other != other) else [where]


def comparable(checkpoint: dict) -> dict:
    """All of a checkpoint but the paths, which tell the folder, the seconds that it took, and how often it was begun."""
    kept = {key: value for key, value in checkpoint.items() if not key.startswith(('hyper', 'hparams'))}
    del kept['loops']['fit_loop']['epoch_progress']
    kept['callbacks'] = {
        name: {k: v for k, v in state.items() if k not in NOT_COMPARED}
        for name, state in checkpoint['callbacks'].items()
        if isinstance(state, dict)
    }
    return kept
