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

"""Fits on a CUDA device: what the host may not wait for, steps that are left out, and the same cameras as on a CPU."""

import traceback
import warnings

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from small_model import TowardColour, small_config

from nemo_dreamfusion.callbacks.grad_scaler import install_scaler
from nemo_dreamfusion.callbacks.non_finite import SkipNonFinite
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.modules.renderers.samplers import SampleBudget

pytestmark = pytest.mark.gpu
GPU = ('trainer.accelerator=gpu', 'trainer.devices=1')


class Waits(pl.Callback):
    """Collects where the host waits for the device within the steps from ``first`` on."""

    def __init__(self, first: int) -> None:
        self.first, self.found = first, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx >= self.first:
            self.before, warnings.showwarning = warnings.showwarning, self.note
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx >= self.first:
            torch.cuda.set_sync_debug_mode('default')
            warnings.showwarning = self.before

    def note(self, message, *_, **__):
        if 'called a synchronizing' in str(message):
            ours = [
                f for f in traceback.extract_stack() if 'nemo_dreamfusion' in f.filename or 'lightning' in f.filename
            ]
            self.found.append(' < '.join(f'{f.filename[-40:]}:{f.lineno}' for f in reversed(ours[-6:])))


def fit(folder, *overrides, guidance=None, callbacks=(), max_steps=24, precision=32):
    config = small_config(*GPU, *overrides)
    torch.manual_seed(0)
    model = DreamFusion(config.model)
    if guidance is not None:
        model.guidance = guidance
    options = {**config.trainer, 'max_steps': max_steps, 'precision': precision, 'enable_progress_bar': False}
    trainer = pl.Trainer(**options, default_root_dir=folder, enable_model_summary=False, callbacks=list(callbacks))
    install_scaler(trainer)
    trainer.fit(model, datamodule=instantiate(config.model.data))
    return model


@pytest.mark.parametrize('precision', [32, 'bf16-mixed', '16-mixed'])
@pytest.mark.parametrize('optim', ['adam', 'adan'])
def test_no_step_waits_for_the_device(tmp_path, optim, precision):
    """After some steps nobody asks how many samples there are."""
    waits = Waits(first=SampleBudget.KNOWN + 2)
    overrides = (f'model/optim={optim}', 'model.loss.lambda_orientation=0.01', 'model.iters=40')
    model = fit(tmp_path, *overrides, callbacks=[SkipNonFinite(), waits], precision=precision, max_steps=40)
    assert not waits.found, '\n'.join(sorted(set(waits.found)))
    assert model.renderer.count_dropped_steps() == 0
    assert all(p.isfinite().all() for p in model.parameters())


class SometimesNaN(TowardColour):
    """Its loss is no number at one step."""

    def prepare(self, prompts, device):
        super().prepare(prompts, device)
        self.color = self.color.to(device)

    def loss(self, render, cameras, *, step, **rest):
        output = super().loss(render, cameras, step=step, **rest)
        output.loss.mul_(float('nan') if step == 5 else 1.0)
        return output


class Parameters(pl.Callback):
    """The parameters after each step."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after.append(torch.cat([p.detach().flatten() for p in pl_module.parameters()]))


@pytest.mark.parametrize('optim', ['adam', 'adan', 'sgd'])
def test_a_step_that_is_no_number_changes_nothing(tmp_path, optim):
    seen, skip = Parameters(), SkipNonFinite()
    chosen = ('~model.optim', '+model.optim={name: sgd, lr: 0.01}') if optim == 'sgd' else (f'model/optim={optim}',)
    fit(tmp_path, *chosen, guidance=SometimesNaN(), callbacks=[skip, seen], max_steps=9)
    changed = [not torch.equal(a, b) for a, b in zip(seen.after, seen.after[1:])]
    assert changed == [step != 5 for step in range(1, 9)]
    assert skip.skipped == 1 and skip.in_a_row == 0 and seen.after[-1].isfinite().all()


def test_cameras_are_those_of_a_cpu(tmp_path):
    there, here = SometimesNaN(), TowardColour()
    fit(tmp_path / 'gpu', guidance=there, max_steps=4)
    fit(tmp_path / 'cpu', 'trainer.accelerator=cpu', guidance=here, max_steps=4)
    for (_, _, _, a), (_, _, _, b) in zip(there.calls, here.calls, strict=True):
        assert a == b


@pytest.mark.parametrize('precision', [32, 'bf16-mixed', '16-mixed'])
def test_every_precision_learns(tmp_path, precision):
    guidance = SometimesNaN((1.0, 0.0, 0.0))
    fit_options = {'guidance': guidance, 'callbacks': [SkipNonFinite()], 'precision': precision}
    short, long = (fit(tmp_path / str(n), max_steps=n, **fit_options) for n in (2, 40))
    camera = long.trainer.datamodule.test_cameras[0]
    before, after = (m.to('cuda').render_cameras(camera).image[..., 1:].mean() for m in (short, long))
    assert after < before - 0.01
