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
from torch import Tensor

KEY = 'random_state'
GRADIENTS = 'gradients'


class ExactResume(pl.Callback):
    """A resumed run goes on as if it had never stopped: bit for bit on the same machine.

    Lightning saves a checkpoint before it has counted the batch at hand as done, so that a resumed run would do that
    batch again (which shifts the epochs and the accumulation of gradients by one), and with the last validation still
    counted as the one at hand, so that the next one would be cut short: the checkpoint is corrected. Added to it are the
    gradients of a step that is accumulated half, and the global random states (torch, NumPy, Python, each GPU of this
    process). Steps draw from the model's own generator, which is a function of the step, but what a user adds may not.
    With several processes those two are the first one's, and are not given back.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._gradients: dict[str, Tensor] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Counts the batch at hand, forgets the last validation, adds gradients and random states."""
        loop = checkpoint['loops']['fit_loop']
        batches, validation = (loop[f'epoch_loop.{name}batch_progress'] for name in ('', 'val_loop.'))
        for count in ('current', 'total'):
            batches[count]['completed'] = batches[count]['processed']
            validation[count] = dict.fromkeys(validation[count], 0)
        batches['is_last_batch'] = validation['is_last_batch'] = False  # counted anew: a run may become longer
        loop['epoch_loop.state_dict']['_batches_that_stepped'] = checkpoint['global_step']  # the loggers' step
        if within_step(trainer):
            named = pl_module.named_parameters()
            checkpoint[GRADIENTS] = {name: p.grad.detach() for name, p in named if p.grad is not None}
        checkpoint[KEY] = random_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps what is to be given back until everything is set up."""
        self._state, self._gradients = checkpoint.get(KEY), checkpoint.get(GRADIENTS, {})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives gradients and random states back, just before the loop goes on with a step, a validation or an epoch."""
        state, gradients, self._state, self._gradients = self._state, self._gradients, None, {}
        if state is None:
            return
        loop = (
            trainer.fit_loop.epoch_loop
        )  # at an epoch's end without validation it would wait for one, and take a step
        loop.val_loop._has_run = not loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if trainer.world_size > 1:
            return
        for name, parameter in pl_module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)
        restore_random_state(state)


def within_step(trainer: pl.Trainer) -> bool:
    """Whether the batch at hand only adds to the gradients of a step that a later batch makes."""
    return trainer.fit_loop._should_accumulate()


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
