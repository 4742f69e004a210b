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

"""torch's optimizers as one kernel, and what they have to do with the gradient scaler of 16-mixed."""

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from lightning.pytorch.plugins.precision import MixedPrecision
from small_model import TowardColour, small_config

from nemo_dreamfusion.callbacks.grad_scaler import AsyncGradScaler
from nemo_dreamfusion.launch.trainer import make_trainer
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.optimizers import fused_options


@pytest.mark.parametrize(
    ('optim', 'device', 'fused'),
    [
        ({'name': 'adam', 'lr': 1e-3}, 'cuda', True),
        ({'name': 'adamw', 'lr': 1e-3}, 'cuda', True),
        ({'lr': 1e-3}, 'cuda', True),  # NeMo's default is Adam
        ({'name': 'adam', 'lr': 1e-3}, 'cpu', True),
        ({'name': 'adam', 'lr': 1e-3}, 'mps', False),
        ({'name': 'adam', 'lr': 1e-3, 'foreach': False}, 'cuda', False),
        ({'name': 'adan', 'lr': 1e-3}, 'cuda', False),
        ({'name': 'adam', 'lr': 1e-3, 'args': {'foreach': True}}, 'cuda', False),
        ({'_target_': 'torch.optim.Adam', 'lr': 1e-3}, 'cuda', False),
        (None, 'cuda', False),
    ],
)
def test_adam_is_one_kernel(optim, device, fused):
    assert fused_options(optim, torch.device(device)) == ({'fused': True} if fused else {})


@pytest.mark.parametrize('name', ['adam', 'adan'])
def test_an_optimizer_is_given_gradients_without_a_scale(name):
    """Lightning unscales before callbacks and clipping see the gradients, but not where the optimizer says it does."""
    optimizer, _ = DreamFusion(small_config(f'model/optim={name}').model).setup_optimization()
    assert not _optimizer_handles_unscaling(optimizer)


def test_a_run_of_16_mixed_has_the_scaler_that_reads_nothing(tmp_path, monkeypatch):
    plain = pl.Trainer

    def in_half(plugins, precision=None, **options):  # by its name Lightning takes bf16-mixed on a CPU
        return plain(plugins=[*plugins, MixedPrecision('16-mixed', 'cpu')], **options)

    monkeypatch.setattr(pl, 'Trainer', in_half)
    config = small_config('+trainer.limit_val_batches=0', 'trainer.max_steps=3', 'model.iters=3')
    model = DreamFusion(config.model)
    model.guidance = TowardColour()
    trainer = make_trainer(config, tmp_path, [])
    trainer.fit(model, datamodule=instantiate(config.model.data))
    assert type(trainer.precision_plugin.scaler) is AsyncGradScaler and trainer.global_step == 3
    assert all(parameter.isfinite().all() for parameter in model.parameters())
