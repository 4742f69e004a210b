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

"""Render the views of a finished object that the data module holds out, or a video along a user's own path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from nemo_dreamfusion.data.camera_path import read_camera_path
from nemo_dreamfusion.export.fast_views import FastViews, spread
from nemo_dreamfusion.export.video import save_video
from nemo_dreamfusion.launch.configuration import prepare_config
from nemo_dreamfusion.launch.fail_together import fail_together
from nemo_dreamfusion.launch.run_folder import prepare_folder_of_archive
from nemo_dreamfusion.launch.trainer import make_preview, make_progress_callbacks
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.checks import check_choice

VIDEO = 'camera_path.mp4'
STRIPS = {'validate': 'validation', 'test': 'test'}


@dataclass(frozen=True)
class RenderResult:
    """What :func:`render` made."""

    folder: Path
    strip: Path  # all views side by side; of mode=render the video
    views: tuple[Path, ...]  # one picture for each; of mode=render none


def render(cfg: DictConfig) -> RenderResult:
    """Render the views of ``mode=test`` or ``mode=validate`` of a finished object and save them.

        render(load_config(overrides=['mode=test', 'restore_from_path=DreamFusion.nemo']))
        render(load_config(overrides=['mode=render', 'restore_from_path=DreamFusion.nemo', 'camera_path=path.json']))

    They go beside the archive, or to ``cfg.exp_manager.explicit_log_dir``. ``mode=render`` makes a video of the cameras of
    ``cfg.camera_path``, ``cfg.turntable_size`` pixels high.

    Raises:
        ValueError: for settings that cannot work, or an archive that cannot be restored.
    """
    cfg = prepare_config(cfg)
    if cfg.mode == 'render':
        return _render_path(cfg)
    name = STRIPS[check_choice('mode', cfg.mode, tuple(STRIPS))]
    model = DreamFusion.restore_from(cfg.restore_from_path, map_location='cpu')
    folder = prepare_folder_of_archive(cfg)
    trainer = pl.Trainer(**cfg.trainer, callbacks=[*make_progress_callbacks(cfg), make_preview(cfg, folder)])
    run = trainer.validate if cfg.mode == 'validate' else trainer.test
    with fail_together(trainer):
        run(model, datamodule=instantiate(cfg.model.data), verbose=False)
    return RenderResult(folder, folder / f'{name}.png', tuple(sorted((folder / name).glob('*.png'))))


def _render_path(cfg: DictConfig) -> RenderResult:
    path = read_camera_path(cfg.camera_path, cfg.turntable_size)
    model = DreamFusion.restore_from(cfg.restore_from_path, map_location='cpu')
    folder = prepare_folder_of_archive(cfg)
    model = model.to(pl.Trainer(**cfg.trainer).strategy.root_device)
    cameras = path.cameras
    views = (cameras[i : i + 1] for i in range(len(cameras)))
    fast = FastViews(model, len(cameras) * cameras.height * cameras.width, spread(cameras))
    images = (fast.render(view).image[0] for view in tqdm(views, 'frames', len(cameras), disable=None))
    return RenderResult(folder, save_video(images, folder / VIDEO, fps=path.fps), ())
