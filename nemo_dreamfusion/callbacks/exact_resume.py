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

"""What Lightning leaves out of a checkpoint and an exact continuation needs."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

KEY = 'random_state'


class ExactResume(pl.Callback):
    """A resumed run goes on as if it had never stopped: bit for bit on the same machine.

    Lightning saves a checkpoint before it has counted the batch at hand as done, so that a resumed run would do that
    batch again (which shifts the epochs and the accumulation of gradients by one): the checkpoint is corrected. The
    global random states (torch, NumPy, Python, each GPU of this process) are added to it. Steps draw from the model's own
    generator, which is a function of the step, but what a user adds may not.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Counts the batch at hand and adds the random states."""
        loop = checkpoint['loops']['fit_loop']
        for count in ('current', 'total'):
            loop['epoch_loop.batch_progress'][count]['completed'] = loop['epoch_loop.batch_progress'][count][
                'processed'
            ]
        loop['epoch_loop.state_dict']['_batches_that_stepped'] = checkpoint['global_step']  # the loggers' step
        checkpoint[KEY] = random_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps the random states until everything is set up."""
        self._state = checkpoint.get(KEY)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        """Gives the random states back just before the first step (with several ranks they are the first one's: not)."""
        if self._state is not None and trainer.world_size == 1:
            restore_random_state(self._state)
        self._state = None


def random_state() -> dict[str, Any]:
    """The global random states of this process, as plain data."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
        'python': (version, list(numbers), gauss),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets what :func:`random_state` returned (the GPUs' only where there are as many)."""
    torch.set_rng_state(state['torch'].cpu())
    if len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
