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

"""Give Lightning its loaders: step numbers for training, orbits of cameras for the rest."""

from __future__ import annotations

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

from nemo_dreamfusion.data.cameras import collate_cameras
from nemo_dreamfusion.data.samplers import OrbitCameras, RandomCameras
from nemo_dreamfusion.parts.checks import check_positive

_ENDLESS = 1_000_000  # steps of an epoch where neither the data nor the trainer has an end


class StepIndexes(Dataset):
    """The numbers 0 ... steps - 1, map-style, so that Lightning can deal them out to the ranks."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.steps:
            raise IndexError(f'step {index} of {self.steps}')
        return index


class CameraDataModule(pl.LightningDataModule):
    """The cameras of a run.

    A training batch is nothing but a step's number: the model draws the cameras itself, ``train_cameras.sample(generator,
    height, width)`` from the step's own generator, so that they differ between ranks and go on where a checkpoint left
    off. The other loaders give one ``CameraBatch`` of one camera at a time, shared out over the ranks.

    Args:
        train: the random cameras of the training steps.
        val: the orbit that validation renders.
        test: the orbit that testing renders.
        predict: the orbit that prediction renders; None: that of testing.
        steps_per_epoch: training steps that each rank counts as an epoch; None: all of ``trainer.max_steps``.
    """

    def __init__(
        self,
        *,
        train: RandomCameras,
        val: OrbitCameras,
        test: OrbitCameras,
        predict: OrbitCameras | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        if steps_per_epoch is not None:
            check_positive('model.data.steps_per_epoch', steps_per_epoch, integer=True)
        self.train_cameras = train
        self.val_cameras = val
        self.test_cameras = test
        self.predict_cameras = test if predict is None else predict
        self.steps_per_epoch = steps_per_epoch

    def train_dataloader(self) -> DataLoader:
        """Load step numbers. Lightning's DistributedSampler gives each of n ranks one in n, so there are n times as many."""
        max_steps = self.trainer.max_steps if self.trainer else -1
        steps = self.steps_per_epoch or (max_steps if max_steps > 0 else _ENDLESS)
        ranks = self.trainer.world_size if self.trainer else 1
        return DataLoader(StepIndexes(steps * ranks), batch_size=1)

    def val_dataloader(self) -> DataLoader:
        """Load the validation orbit."""
        return _load_one_by_one(self.val_cameras)

    def test_dataloader(self) -> DataLoader:
        """Load the test orbit."""
        return _load_one_by_one(self.test_cameras)

    def predict_dataloader(self) -> DataLoader:
        """Load the prediction orbit."""
        return _load_one_by_one(self.predict_cameras)


def camera_data(trainer: pl.Trainer) -> CameraDataModule:
    """Return the data module that a trainer runs with."""
    return trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it and does not declare it


def _load_one_by_one(cameras: OrbitCameras) -> DataLoader:
    return DataLoader(cameras, batch_size=1, collate_fn=collate_cameras)
