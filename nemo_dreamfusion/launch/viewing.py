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

"""Look at a finished object in a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from nemo_dreamfusion.data.datamodule import CameraDataModule
from nemo_dreamfusion.data.samplers import OrbitCameras
from nemo_dreamfusion.export.agreement import VIEW_SIZE, VIEWS
from nemo_dreamfusion.export.assets import describe
from nemo_dreamfusion.launch.configuration import prepare_config
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.launch.run_folder import prepare_folder_of_archive
from nemo_dreamfusion.launch.trainer import make_export_options
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.build import read_options
from nemo_dreamfusion.viewer.options import ViewerOptions
from nemo_dreamfusion.viewer.viewer import Viewer


def view(cfg: DictConfig) -> Path:
    """Show the object of ``cfg.restore_from_path`` until Ctrl-C; return the folder that holds what was exported.

        view(load_config(overrides=['mode=view', 'restore_from_path=DreamFusion.nemo', 'viewer.port=8081']))

    Raises:
        ValueError: for settings that cannot work, a port that is taken, or an archive that cannot be restored.
    """
    with open_viewer(cfg) as (viewer, folder):
        print(f'Viewer: {viewer.url} (Ctrl-C ends it)', flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return folder


@contextmanager
def open_viewer(cfg: DictConfig) -> Iterator[tuple[Viewer, Path]]:
    """Yield a running viewer of a finished object, and the folder for exports; it ends with the block."""
    cfg = prepare_config(cfg, 'view')
    model = DreamFusion.restore_from(cfg.restore_from_path, map_location='cpu')
    folder = prepare_folder_of_archive(cfg)
    model = model.to(pl.Trainer(**cfg.trainer).strategy.root_device)
    data = instantiate(cfg.model.data)
    viewer = Viewer(
        _options(cfg), folder=folder, orbit=_orbit(data), about=describe(model), exports=make_export_options(cfg)
    )
    viewer.handover.offer(model, model.options['iters'])
    try:
        yield viewer, folder
    finally:
        viewer.close()


def _options(cfg: DictConfig) -> ViewerOptions:
    return read_options('viewer', ViewerOptions, to_plain(cfg).get('viewer'))


def _orbit(data: CameraDataModule) -> OrbitCameras:
    return data.test_cameras.resized(VIEWS, VIEW_SIZE)
