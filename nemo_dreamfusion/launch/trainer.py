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

"""The Lightning trainer of a run under NeMo's exp_manager."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, Timer
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_dreamfusion.callbacks.ema import MovingAverage
from nemo_dreamfusion.callbacks.exact_resume import ExactResume
from nemo_dreamfusion.callbacks.grad_scaler import install_scaler
from nemo_dreamfusion.callbacks.preview import Preview
from nemo_dreamfusion.callbacks.progress import make_progress
from nemo_dreamfusion.export.surface import RESOLUTION
from nemo_dreamfusion.launch.checkpoint_io import SafeCheckpointIO, newest_good, prepare_resume
from nemo_dreamfusion.parts.checks import first_line
from nemo_dreamfusion.parts.ranks import is_global_rank_zero
from nemo_dreamfusion.viewer.exports import ExportOptions

FRAMES = 48  # of a turntable from the viewer, where a run has none


def make_trainer(cfg: DictConfig, folder: Path, callbacks: Sequence[pl.Callback]) -> pl.Trainer:
    """Make a trainer that writes in ``folder`` and goes on from the newest good checkpoint there.

    Raises:
        ValueError: for settings that exp_manager refuses.
    """
    average = MovingAverage.from_config(cfg.exp_manager.get('ema'))  # instead of NeMo's, which cannot be resumed
    trainer = pl.Trainer(**cfg.trainer, callbacks=[*average, ExactResume(), *callbacks], plugins=[SafeCheckpointIO()])
    install_scaler(trainer)
    settings = cfg.exp_manager.copy()
    with open_dict(settings):
        settings.explicit_log_dir, settings.exp_dir, settings.name = str(folder), None, None
        settings.pop('ema', None)
        settings.create_preemption_callback = False  # NeMo's: after SIGTERM its exit code would be 0
        settings.disable_validation_on_resume = False  # else the first validation after a resume is left out
        if settings.get('create_early_stopping_callback'):
            OmegaConf.update(settings, 'early_stopping_callback_params.strict', False)  # resumed where an epoch ends
        if settings.get('resume_if_exists'):
            find = prepare_resume if is_global_rank_zero() else newest_good
            newest = find(folder / 'checkpoints')
            settings.resume_from_checkpoint = str(newest) if newest else settings.get('resume_from_checkpoint')
            settings.resume_if_exists = False  # NeMo's own search would look while the first rank clears up
    try:
        exp_manager(trainer, settings)
        for logger in trainer.loggers:
            _ = getattr(logger, 'experiment', None)  # connects to its server now, not after the guidance is loaded
    except OSError:
        raise
    except (
        Exception
    ) as error:  # a switch whose package is not installed, a time of another form, a logger without a key
        raise ValueError(f'exp_manager: NeMo refuses these settings: {first_line(error)}.') from error
    return trainer


def make_progress_callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """Make what says how far the run is; Lightning refuses one where ``trainer.enable_progress_bar`` is false."""
    return [make_progress()] if cfg.trainer.get('enable_progress_bar', True) else []


def make_preview(cfg: DictConfig, folder: Path) -> Preview:
    """Make the callback that leaves the pictures."""
    return Preview(
        folder=folder,
        interval=cfg.preview_interval,
        mesh_resolution=cfg.mesh_resolution,
        mesh_faces=cfg.mesh_faces,
        texture_size=cfg.texture_size,
        turntable_frames=cfg.turntable_frames,
        turntable_size=cfg.turntable_size,
        pictures=cfg.pictures,
        picture_background=cfg.picture_background,
    )


def make_export_options(cfg: DictConfig) -> ExportOptions:
    """Return what the viewer's exports are like: as the run's files, where it has some."""
    return ExportOptions(
        mesh_resolution=cfg.mesh_resolution or RESOLUTION,
        mesh_faces=cfg.mesh_faces,
        texture_size=cfg.texture_size,
        turntable_frames=cfg.turntable_frames or FRAMES,
        turntable_size=cfg.turntable_size,
    )


def is_out_of_time(trainer: pl.Trainer) -> bool:
    """Return whether exp_manager.max_time_per_run has passed."""
    left = [callback.time_remaining() for callback in _callbacks(trainer) if isinstance(callback, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def is_complete(trainer: pl.Trainer) -> bool:
    """Return whether all steps were made, or early stopping found that the rest is not needed."""
    can_stop = any(isinstance(callback, EarlyStopping) for callback in _callbacks(trainer))
    early = can_stop and trainer.should_stop and not is_out_of_time(trainer)  # else trainer.max_epochs ended it
    return trainer.global_step >= trainer.max_steps or early


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]  # set by a part of the trainer that mypy does not look into
