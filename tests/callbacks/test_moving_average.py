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

"""The moving average of the scene: its formula, where it shows, and that a resumed run goes on with it."""

import pytest
import torch
from refusals import refusal

from nemo_dreamfusion.callbacks.ema import MovingAverage
from nemo_dreamfusion.launch.checkpoint_io import SafeCheckpointIO
from nemo_dreamfusion.parts.safe_load import read_checkpoint

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture
def followed(ball):
    """A model that remembers its radius at the beginning of each step."""

    class Followed(ball):
        def __init__(self):
            super().__init__(lambda model, step: model.seen.append(model.nerf.radius.item()))
            self.seen = []

    return Followed


def expected(radii, decay):
    """The average after the last of ``radii``, the first being the start."""
    average = radii[0]
    for n, radius in enumerate(radii[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * radius
    return average


def test_the_fit_ends_with_the_average_and_its_checkpoints_hold_the_parameters_too(
    followed, cameras, trainer, tmp_path
):
    model, average = followed(), MovingAverage(decay=0.3)
    run = trainer(average, max_steps=6, limit_val_batches=0)
    run.fit(model, cameras)
    own = average._own['nerf.radius'].item()
    assert model.nerf.radius.item() == pytest.approx(expected([*model.seen, own], 0.3), abs=1e-7) != own
    run.save_checkpoint(tmp_path / 'last.ckpt')
    saved = read_checkpoint(tmp_path / 'last.ckpt')
    assert saved['state_dict']['nerf.radius'].item() == own
    assert torch.equal(saved['callbacks']['MovingAverage']['average']['nerf.radius'], model.nerf.radius)


@pytest.mark.parametrize('every', [1, 3])
def test_a_resumed_run_goes_on_with_the_same_average(followed, cameras, trainer, tmp_path, every):
    def fit(steps, model, **options):
        callback = MovingAverage(decay=0.9, every_n_steps=every)
        run = trainer(callback, max_steps=steps, limit_val_batches=0, plugins=[SafeCheckpointIO()])
        run.fit(model, cameras, **options)
        return run, callback

    whole, resumed = followed(), followed()
    fit(8, whole)
    first, _ = fit(5, followed())
    first.save_checkpoint(tmp_path / 'last.ckpt')
    _, callback = fit(8, resumed, ckpt_path=tmp_path / 'last.ckpt')
    assert torch.equal(resumed.nerf.radius, whole.nerf.radius)
    assert callback.updates == 8 // every


def test_validation_sees_the_average_and_training_does_not(followed, cameras, trainer):
    class Seen(followed):
        def validation_step(self, batch, batch_idx):
            self.validated = self.nerf.radius.item()
            return super().validation_step(batch, batch_idx)

    for original in (False, True):
        model = Seen()
        average = MovingAverage(decay=0.5, validate_original_weights=original)
        trainer(average, max_steps=4).fit(model, cameras)
        own = average._own['nerf.radius'].item()
        assert (model.validated == own) is original and (model.validated == model.nerf.radius.item()) is not original


def test_nemos_node_decides():
    assert MovingAverage.from_config(None) == [] == MovingAverage.from_config({'enable': False, 'decay': 0.5})
    (made,) = MovingAverage.from_config({'enable': True, 'decay': 0.5, 'every_n_steps': 2, 'cpu_offload': False})
    assert (made.decay, made.every_n_steps) == (0.5, 2)
    with refusal('exp_manager.ema.decay', 1.0, 'less than 1'):
        MovingAverage(decay=1.0)
