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

"""Time training steps on several processes, and estimate from the size of the gradients what GPUs would need.

    python benchmarks/scaling.py                 1 and 2 processes of one thread, the default run of nemo_dreamfusion/conf
    python benchmarks/scaling.py 1,2,4 steps=40  other numbers

Each process renders and scores an image of its own, so n processes do n times the work in one step.
Run it on a machine that does nothing else. How the cost grows with other sizes: growth.py.
"""

import json
import os
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.multiprocessing as multiprocessing
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from nemo_dreamfusion.launch.logging import configure_logging
from nemo_dreamfusion.models.dreamfusion import DreamFusion

CONF = Path(__file__).resolve().parents[1] / 'nemo_dreamfusion' / 'conf'
WARMUP = 5  # steps that do not count
LINKS = {
    'NVLink 4, 8 GPUs of a machine': (8, 300e9),
    'PCIe 4, 8 GPUs': (8, 20e9),
    '2 machines of 8, 200 Gb/s': (16, 20e9),
}


@dataclass(frozen=True)
class Measured:
    """What some processes took for a step."""

    seconds: float  # by the first one's clock, median
    size: int  # bytes of the gradients
    cpu_seconds: tuple[float, ...]  # of each process, median


class Clock(pl.Callback):
    """Record the seconds of each step, and its CPU seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def on_train_batch_start(self, *args) -> None:
        self.began = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, *args) -> None:
        self.seconds.append(time.perf_counter() - self.began[0])
        self.cpu_seconds.append(time.process_time() - self.began[1])


def run_worker(rank: int, processes: int, port: int, steps: int, folder: str) -> None:
    """Run one of ``processes``; it writes the medians of its step's times and the bytes of the gradients."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose('dreamfusion', overrides=[f'trainer.max_steps={steps + WARMUP}', 'model.iters=500'])
    options = {**config.trainer, 'accelerator': 'cpu', 'devices': processes, 'limit_val_batches': 0}
    options |= {'strategy': 'ddp' if processes > 1 else 'auto', 'enable_progress_bar': False}
    clock, model = Clock(), DreamFusion(config.model)
    trainer = pl.Trainer(**options, enable_model_summary=False, callbacks=[clock])
    trainer.fit(model, datamodule=instantiate(config.model.data))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    times = [statistics.median(one[WARMUP:]) for one in (clock.seconds, clock.cpu_seconds)]
    Path(folder, f'{rank}.json').write_text(json.dumps([*times, size]), encoding='utf-8')


def measure_processes(processes: int, steps: int) -> Measured:
    """Measure so many processes of one thread each.

    Raises:
        RuntimeError: when one of them fails.
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context('spawn')  # what used autograd before cannot use it in a fork
        arguments = [(rank, processes, port, steps, folder) for rank in range(processes)]
        workers = [context.Process(target=run_worker, args=one) for one in arguments]
        for process in workers:
            process.start()
        for process in workers:
            process.join()
        if any(process.exitcode for process in workers):
            raise RuntimeError(f'one of {processes} processes failed: its error is above')
        found = [json.loads(Path(folder, f'{rank}.json').read_text(encoding='utf-8')) for rank in range(processes)]
    return Measured(found[0][0], found[0][2], tuple(cpu for _, cpu, _ in found))


def estimate_all_reduce(size: int, processes: int, bytes_per_second: float) -> float:
    """Return the seconds of a ring all-reduce: 2 (n - 1) / n of the data cross the slowest link (Patarasuk, Yuan, 2009)."""
    return 2 * (processes - 1) / processes * size / bytes_per_second


def main() -> None:
    """Print the measured table, then the estimate for GPUs."""
    counts = next((a for a in sys.argv[1:] if '=' not in a), '1,2')
    steps = int(next((a.partition('=')[2] for a in sys.argv[1:] if a.startswith('steps=')), '30'))
    configure_logging('error')
    print('| processes | seconds a step | images a second | efficiency |\n|---|---|---|---|')
    first = None
    for processes in map(int, counts.split(',')):
        found = measure_processes(processes, steps)
        seconds = found.seconds
        first = first or seconds
        print(f'| {processes} | {seconds:.3f} | {processes / seconds:.2f} | {first / seconds:.0%} |')
    print(
        f'\nGradients of this model: {found.size / 1e6:.1f} MB. Of the full-size field (12.2 million numbers): 48.8 MB.'
    )
    for name, (ranks, speed) in LINKS.items():
        print(f'{name}: {1e3 * estimate_all_reduce(48_800_000, ranks, speed):.2f} ms of all-reduce a step')


if __name__ == '__main__':
    main()
