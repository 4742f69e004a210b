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

"""Skip and count steps whose loss or gradient is not finite; end the run after too many in a row."""

from __future__ import annotations

import logging

import lightning.pytorch as pl
import torch
from torch import Tensor

from nemo_dreamfusion.parts.async_scalars import AsyncScalars
from nemo_dreamfusion.parts.checks import check_positive

logger = logging.getLogger('nemo_dreamfusion.callbacks.non_finite')

ADVICE = (
    'Try a lower model.optim.lr, trainer.precision=32 and model.guidance.networks.precision=32 (half precision overflows), '
    'model.guidance.score.grad_clip=1, or another model.seed'
)


def skips_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer reads the tensor ``found_inf`` and changes nothing where it is not 0.

    torch's Adam and AdamW do where they are fused (a checkpoint decides that for its optimizer), and our Adan on a GPU.
    """
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        return all(group.get('fused') for group in optimizer.param_groups)
    return getattr(optimizer, 'reads_found_inf', False)


class NonFiniteError(ValueError):
    """Too many steps in a row gave NaN or infinity."""


class SkipNonFinite(pl.Callback):
    """Skip a step whose loss or gradient holds NaN or infinity: no parameter and no optimizer state changes.

    All ranks skip the same steps. The count is logged as ``skipped_steps`` and is part of the checkpoint. An optimizer
    that can (see :func:`skips_by_itself`) skips the step itself, and the host counts it two steps later instead of
    waiting for the GPU; with any other optimizer the host waits.

    Args:
        limit: the number of skipped steps in a row that ends the run.
    """

    def __init__(self, *, limit: int = 20) -> None:
        self.limit = check_positive('max_skipped_in_a_row', limit, integer=True)
        self.skipped = 0  # of the whole run
        self.in_a_row = 0
        self._loss = torch.zeros(())  # of the current step
        self._found = AsyncScalars()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss."""
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Skip a step that is not finite: let the optimizer skip it, or remove the gradients."""
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        sizes = [torch.linalg.vector_norm(g, 1, dtype=torch.float32) for g in gradients]  # sums of absolute values
        sums = torch.stack([self._loss.sum().float(), *sizes])
        found_inf = (~sums.isfinite().all()).float()  # 0 or 1: torch's kernels know nothing else
        if skips_by_itself(optimizer):
            if trainer.world_size > 1:
                torch.distributed.all_reduce(found_inf, torch.distributed.ReduceOp.MAX)
            optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # torch reads it and does not declare it
            self._found.push(found_inf)
            for found in self._found.pop_due():
                self._count(not found, trainer.global_step - self._found.delay)
        else:
            finite = trainer.strategy.reduce_boolean_decision(not found_inf, all=True)
            if not finite:
                for parameter in (p for group in optimizer.param_groups for p in group['params']):
                    parameter.grad = None
            self._count(finite, trainer.global_step)
        pl_module.log('skipped_steps', torch.full((), float(self.skipped), device=pl_module.device))

    def _count(self, finite: bool, step: int) -> None:
        self.skipped, self.in_a_row = self._counted(self.skipped, self.in_a_row, finite)
        if not finite:
            self._report(step)

    @staticmethod
    def _counted(skipped: int, in_a_row: int, finite: bool) -> tuple[int, int]:
        return (skipped, 0) if finite else (skipped + 1, in_a_row + 1)

    def _report(self, step: int) -> None:
        if self.in_a_row >= self.limit:
            raise NonFiniteError(
                f'The last {self.in_a_row} steps, up to step {step}, gave a loss or gradient that is not finite, and were '
                f'skipped. {ADVICE}. The run stops; its checkpoints hold finite numbers.'
            )
        if self.skipped & (self.skipped - 1) == 0:  # warn at the 1st, 2nd, 4th, 8th, ...
            logger.warning(
                'Step %d was skipped: its loss or gradient is not finite (%d so far, %d in a row; the run stops at %d).',
                step,
                self.skipped,
                self.in_a_row,
                self.limit,
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how many steps were skipped."""
        pending = self._found.pop_all()
        for late, found in enumerate(pending):
            self._count(not found, trainer.global_step - len(pending) + 1 + late)
        if self.skipped:
            logger.warning('%d of %d steps were skipped: not finite.', self.skipped, trainer.global_step)

    def state_dict(self) -> dict[str, int]:
        """Return the counts, for the checkpoint."""
        skipped, in_a_row = self.skipped, self.in_a_row
        for found in self._found.peek_all():
            skipped, in_a_row = self._counted(skipped, in_a_row, not found)
        return {'skipped': skipped, 'in_a_row': in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take the counts from a checkpoint."""
        self.skipped, self.in_a_row = state_dict['skipped'], state_dict['in_a_row']
        self._found = AsyncScalars()
