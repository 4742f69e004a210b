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

"""Steps that are not finite: skipped without a trace in parameters or optimizer, counted, and limited."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.callbacks.non_finite import NonFiniteError, SkipNonFinite

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture
def poisoned(ball):
    """A model whose loss, or only whose gradient, is not finite at some steps."""

    class Poisoned(ball):
        def __init__(self, steps, where='loss'):
            super().__init__()
            self.steps, self.where = steps, where

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if self.global_step not in self.steps:
                return loss
            if self.where == 'loss':
                return loss * torch.tensor(float('inf'))
            return loss + (self.nerf.radius - self.nerf.radius.detach()).abs().sqrt()  # finite; its slope at 0 is not

    return Poisoned


@pytest.mark.parametrize('where', ['loss', 'gradient'])
def test_a_skipped_step_changes_nothing(poisoned, cameras, trainer, where, caplog):
    skip, model = SkipNonFinite(limit=3), poisoned({2, 3}, where)
    run = trainer(skip, max_steps=6, limit_val_batches=0)
    with caplog.at_level(logging.WARNING):
        run.fit(model, cameras)
    (state,) = run.optimizers[0].state.values()
    assert state['step'] == 4 and model.nerf.radius.isfinite() and state['exp_avg'].isfinite()
    assert skip.skipped == 2 and skip.in_a_row == 0 and run.callback_metrics['skipped_steps'] == 2
    assert '2 of 6 steps were skipped' in caplog.text

    unharmed = poisoned(set())
    short = trainer(max_steps=2, limit_val_batches=0)
    short.fit(unharmed, cameras)
    stopped = poisoned({2, 3}, where)
    trainer(SkipNonFinite(), max_steps=4, limit_val_batches=0).fit(stopped, cameras)
    assert torch.equal(stopped.nerf.radius, unharmed.nerf.radius)


def test_too_many_in_a_row_end_the_run_with_advice(poisoned, cameras, trainer):
    model = poisoned({1, 3, 4, 5})
    run = trainer(SkipNonFinite(limit=3), max_steps=20, limit_val_batches=0)
    with refusal('steps', 3, 'model.optim.lr', error=NonFiniteError):
        run.fit(model, cameras)
    assert run.global_step == 5 and model.nerf.radius.isfinite()


def test_the_counts_travel_with_the_checkpoint():
    skip, other = SkipNonFinite(), SkipNonFinite()
    skip.skipped, skip.in_a_row = 5, 2
    other.load_state_dict(skip.state_dict())
    assert (other.skipped, other.in_a_row) == (5, 2)


def test_the_limit_is_checked():
    with refusal('max_skipped_in_a_row', 0, 'at least 1'):
        SkipNonFinite(limit=0)


class Loaded(pl.Callback):
    """Takes the state of an optimizer that was not fused, as a run does that goes on elsewhere."""

    def on_train_start(self, trainer, pl_module):
        state = torch.optim.Adam([torch.zeros(())], lr=0.1).state_dict()
        trainer.optimizers[0].load_state_dict(state)


@pytest.mark.parametrize('where', ['loss', 'gradient'])
@pytest.mark.parametrize('resumed', [False, True])
def test_a_fused_optimizer_leaves_the_step_out_by_itself(poisoned, cameras, trainer, where, resumed, caplog):
    class Fused(poisoned):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1, fused=True)

    skip, model = SkipNonFinite(limit=3), Fused({2, 3}, where)
    run = trainer(skip, *[Loaded()] * resumed, max_steps=6, limit_val_batches=0)
    with caplog.at_level(logging.WARNING):
        run.fit(model, cameras)
    assert hasattr(run.optimizers[0], 'found_inf') == (not resumed)
    (state,) = run.optimizers[0].state.values()
    assert state['step'] == 4 and model.nerf.radius.isfinite() and state['exp_avg'].isfinite()
    assert skip.skipped == 2 and skip.in_a_row == 0
    assert '2 of 6 steps were skipped' in caplog.text
    with refusal('step', 5, 3, 'model.optim.lr', error=NonFiniteError):
        trainer(SkipNonFinite(limit=3), max_steps=9, limit_val_batches=0).fit(Fused({3, 4, 5}, where), cameras)


def test_a_checkpoint_counts_what_is_not_read_yet():
    skip = SkipNonFinite()
    for found in (1.0, 0.0, 1.0):
        skip._found.push(torch.tensor(found))
    assert skip.state_dict() == {'skipped': 2, 'in_a_row': 1} and skip.state_dict() == {'skipped': 2, 'in_a_row': 1}
