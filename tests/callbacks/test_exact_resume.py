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

"""A checkpoint of any moment: what was drawn, counted and accumulated until then."""

import lightning.pytorch as pl
import pytest
import torch

from nemo_dreamfusion.callbacks.exact_resume import ExactResume

pytestmark = pytest.mark.filterwarnings('ignore')


class SaveAfter(pl.Callback):
    """Saves a checkpoint after the given batch."""

    def __init__(self, batch, path):
        self.batch, self.path = batch, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def noisy(ball):
    """A model whose every batch and validation draws from torch's global random state."""

    class Noisy(ball):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (1 + torch.rand(()))

        def validation_step(self, batch, batch_idx):
            torch.rand(())
            return super().validation_step(batch, batch_idx)

    return Noisy


@pytest.mark.parametrize('batch', [1, 2, 3, 4, 5, 6, 7])  # 5 ends an epoch, 2, 4 and 7 come before a validation
@pytest.mark.parametrize('accumulate', [1, 3])
def test_a_run_resumed_after_any_batch_ends_the_same(noisy, cameras, trainer, tmp_path, batch, accumulate):
    options = dict(max_steps=8, accumulate_grad_batches=accumulate, val_check_interval=2)
    cameras.steps_per_epoch = 5
    whole, path = noisy(), tmp_path / 'some.ckpt'
    trainer(ExactResume(), SaveAfter(batch, path), **options).fit(whole, cameras)
    drawn, resumed = torch.rand(()), noisy()
    trainer(ExactResume(), **options).fit(resumed, cameras, ckpt_path=path)
    assert torch.rand(()) == drawn
    assert resumed.nerf.radius.item() == whole.nerf.radius.item()
    validations = [len(model.rendered) // 3 for model in (whole, resumed)]
    assert (
        validations[0] - validations[1] == {1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 2, 7: 2}[batch]
    )  # those before the save
