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

"""Complete Lightning's checkpoints, so that a resumed run equals one that never stopped."""

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
    """Make a resumed run continue as if it had never stopped: bit for bit on the same machine.

    Corrected: Lightning saves a checkpoint before it has counted the current batch as done, so that a resumed run would
    repeat that batch (which shifts the epochs and the accumulation of gradients by one), and with the last validation
    still counted as the current one, so that the next one would be cut short.

    Added: the gradients of a step that is accumulated in part, and the global random states (torch, NumPy, Python, each
    GPU of this process). Steps draw from the model's own generator, which is a function of the step; what a user adds may
    draw from the global ones. With several processes both are those of the first and are not restored.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._gradients: dict[str, Tensor] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count the current batch, reset the last validation, add gradients and random states."""
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
        """Keep gradients and random states until everything is set up."""
        self._state, self._gradients = checkpoint.get(KEY), checkpoint.get(GRADIENTS, {})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore gradients and random states, just before the loop continues with a step, a validation or an epoch."""
        state, gradients, self._state, self._gradients = self._state, self._gradients, None, {}
        if state is None:
            return
        # At the end of an epoch without validation the loop would wait for one, and take a step.
        loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        assert fetcher is not None  # Lightning makes it before this hook
        loop.val_loop._has_run = not loop._should_check_val_fx(fetcher)
        if trainer.world_size > 1:
            return
        for name, parameter in pl_module.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)
        restore_random_state(state)


def within_step(trainer: pl.Trainer) -> bool:
    """Return whether the current batch only adds to the gradients of a step that a later batch makes."""
    return trainer.fit_loop._should_accumulate()


def random_state() -> dict[str, Any]:
    """Return the global random states of this process, as plain data."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    return {
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)),
        'python': (version, list(numbers), gauss),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set what :func:`random_state` returned (the GPUs' only where there are as many)."""
    torch.set_rng_state(state['torch'].cpu())
    if len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers), gauss))
