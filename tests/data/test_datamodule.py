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

"""The data module under Lightning's own trainer, and its sharding."""

from pathlib import Path

import hydra
import lightning.pytorch as pl
import pytest
import torch
from omegaconf import OmegaConf
from refusals import refusal
from torch.utils.data import DistributedSampler

from nemo_dreamfusion.data.datamodule import CameraDataModule
from nemo_dreamfusion.data.samplers import OrbitCameras, RandomCameras
from nemo_dreamfusion.parts.types import CameraBatch

CONF = Path(__file__).parents[2] / 'nemo_dreamfusion/conf/model/data'


def module(views=3, **changes):
    train = RandomCameras(batch_size=2, distance_range=[3, 3.5], elevation_range_deg=[0, 30], fov_range_deg=[30, 40])
    orbit = OrbitCameras(views=views, elevation_deg=15, distance=3.2, fov_deg=36, height=4, width=4)
    return CameraDataModule(**{'train': train, 'val': orbit, 'test': orbit, **changes})


class Recorder(pl.LightningModule):
    """Draws its cameras as the model does, and notes what comes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {'train': [], 'val': [], 'test': [], 'predict': []}

    def training_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(batch_idx)
        self.seen['train'].append((batch, self.trainer.datamodule.train_cameras.sample(generator, 8, 8)))
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.seen['val'].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen['test'].append(batch)

    def predict_step(self, batch, batch_idx):
        self.seen['predict'].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trainer(**options):
    quiet = dict(accelerator='cpu', logger=False, enable_checkpointing=False, enable_progress_bar=False)
    return pl.Trainer(**quiet, enable_model_summary=False, **options)


@pytest.mark.filterwarnings('ignore')
def test_every_loop_of_lightning_runs():
    model, data = Recorder(), module()
    trainer(max_steps=5, num_sanity_val_steps=0).fit(model, data)
    assert [batch.item() for batch, _ in model.seen['train']] == [0, 1, 2, 3, 4]
    assert all(len(cameras) == 2 for _, cameras in model.seen['train'])
    trainer().test(model, data, verbose=False)
    trainer().predict(model, data)
    for loop in ('val', 'test', 'predict'):
        assert [len(batch) for batch in model.seen[loop]] == [1, 1, 1]
        assert all(isinstance(batch, CameraBatch) for batch in model.seen[loop])
        assert [batch.azimuth_deg.item() for batch in model.seen[loop]] == pytest.approx([0, 120, -120], abs=1e-4)


@pytest.mark.filterwarnings('ignore')
def test_steps_per_epoch():
    model = Recorder()
    run = trainer(max_steps=7, limit_val_batches=0)
    run.fit(model, module(steps_per_epoch=3))
    assert [batch.item() for batch, _ in model.seen['train']] == [0, 1, 2, 0, 1, 2, 0]
    assert run.current_epoch >= 2


def test_loaders_can_be_dealt_out_to_ranks():
    data = module(views=4)
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader(), data.train_dataloader()):
        parts = [list(DistributedSampler(loader.dataset, 2, rank, shuffle=False))[:2] for rank in (0, 1)]
        assert parts == [[0, 2], [1, 3]]


def test_each_rank_gets_its_full_number_of_steps():
    data = module(steps_per_epoch=5)
    data.trainer = type('TwoRanks', (), {'max_steps': -1, 'world_size': 2})()
    steps = data.train_dataloader().dataset
    assert [len(list(DistributedSampler(steps, 2, rank))) for rank in (0, 1)] == [5, 5]
    data.steps_per_epoch = None
    data.trainer.max_steps = 9
    assert len(data.train_dataloader().dataset) == 18


def test_refuses_no_steps():
    with refusal('model.data.steps_per_epoch', 0, 'at least 1'):
        module(steps_per_epoch=0)


@pytest.mark.parametrize('name', ['pocket', 'data'])
def test_yaml_builds(name):
    data = hydra.utils.instantiate(OmegaConf.load(CONF / f'{name}.yaml'))
    cameras = data.train_cameras.sample(torch.Generator().manual_seed(0), 16, 16)
    assert cameras.camera_to_world.shape == (1, 4, 4)
    assert len(next(iter(data.val_dataloader()))) == 1
    assert data.predict_cameras is data.test_cameras
