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

"""The gradient scaler of 16-mixed: the steps of torch's own, and no number is read from the device on the way."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils._python_dispatch import TorchDispatchMode

from nemo_dreamfusion.callbacks.grad_scaler import AsyncGradScaler, install_scaler
from nemo_dreamfusion.callbacks.non_finite import SkipNonFinite
from nemo_dreamfusion.models.optimizers import take_unscaled

pytestmark = pytest.mark.filterwarnings('ignore')
INF = float('inf')


class ReadsNothing(TorchDispatchMode):
    """Counts the numbers that the host reads; on a GPU it waits for each."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def steps(make_scaler, *, fused):
    """Five steps of Adam, two of them without a finite gradient: parameter, state, scale, and the numbers read."""
    parameter = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=0.1, fused=fused)
    take_unscaled(optimizer)
    scaler = make_scaler('cpu', init_scale=8.0, growth_interval=2)
    reads = 0
    for slope in (1.0, INF, -0.5, 2.0, float('nan')):
        optimizer.zero_grad()
        scaler.scale((slope * parameter).sum()).backward()
        scaler.unscale_(optimizer)
        assert torch.equal(parameter.grad, torch.full((2,), slope)) or not parameter.grad.isfinite().any()
        with ReadsNothing() as mode:
            scaler.step(optimizer)
            scaler.update()
        reads += mode.reads
    state = optimizer.state[parameter]
    return [parameter.detach(), state['exp_avg'], state['step'], torch.tensor(scaler.get_scale())], reads


def test_it_makes_the_steps_of_torchs_scaler_and_reads_nothing():
    wanted, read_by_torch = steps(torch.amp.GradScaler, fused=False)
    found, read = steps(AsyncGradScaler, fused=True)
    assert read_by_torch >= 5 and read == 0
    assert found[2] == 3  # of five
    for ours, torchs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, torchs)


def test_an_optimizer_that_cannot_leave_a_step_out_is_still_asked_before():
    wanted, _ = steps(torch.amp.GradScaler, fused=False)
    found, read = steps(AsyncGradScaler, fused=False)
    assert read >= 5 and all(torch.equal(ours, torchs) for ours, torchs in zip(found, wanted, strict=True))


def precisions():
    """16-mixed as a plugin: asked for by name, Lightning takes bf16-mixed on a CPU."""
    return {
        '16-mixed': {'plugins': [MixedPrecision('16-mixed', 'cpu')]},
        '32-true': {},
        'bf16-mixed': {'precision': 'bf16-mixed'},
    }


class Gradients(pl.Callback):
    """What callbacks see, and how large the scale was."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen.append(pl_module.nerf.radius.grad.item())


class Poisoned:
    """Mixed into the ball's model: an infinite loss at some steps, whose gradient is finite or not."""

    def __init__(self, steps, *, gradient):
        super().__init__()
        self.steps, self.gradient = steps, gradient

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.global_step not in self.steps:
            return loss
        return loss * torch.tensor(INF) if self.gradient else loss + torch.tensor(INF)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1, fused=True)
        take_unscaled(optimizer)
        return optimizer


@pytest.mark.parametrize('gradient', [True, False])
def test_a_fit_leaves_out_what_is_not_finite(ball, cameras, trainer, gradient):
    kind = type('Model', (Poisoned, ball), {})
    skip, model = SkipNonFinite(limit=3), kind({2, 3}, gradient=gradient)
    run = trainer(skip, max_steps=6, limit_val_batches=0, **precisions()['16-mixed'])
    install_scaler(run)
    run.fit(model, cameras)
    (state,) = run.optimizers[0].state.values()
    assert state['step'] == 4 and model.nerf.radius.isfinite() and state['exp_avg'].isfinite()
    assert skip.skipped == 2 and skip.in_a_row == 0
    assert run.precision_plugin.scaler.get_scale() == (65536.0 / 4 if gradient else 65536.0)


@pytest.mark.parametrize('clip', [None, 0.01])
def test_callbacks_and_clipping_see_gradients_without_the_scale(ball, cameras, trainer, clip):
    kind, seen = type('Model', (Poisoned, ball), {}), {}
    for precision in ('32-true', '16-mixed'):
        watch, model = Gradients(), kind(set(), gradient=False)
        options = precisions()[precision]
        run = trainer(watch, max_steps=3, limit_val_batches=0, gradient_clip_val=clip, **options)
        install_scaler(run)
        run.fit(model, cameras)
        seen[precision] = [*watch.seen, model.nerf.radius.item()]
    assert seen['16-mixed'] == pytest.approx(seen['32-true'], rel=2e-3)


def test_only_the_scaler_of_16_mixed_is_replaced(trainer):
    for precision, options in precisions().items():
        run = trainer(**options)
        install_scaler(run)
        kind = AsyncGradScaler if precision == '16-mixed' else type(None)
        assert type(getattr(run.precision_plugin, 'scaler', None)) is kind
