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

"""Make an object from a prompt, or go on with one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from nemo_dreamfusion.callbacks.collapse import CollapseDetection
from nemo_dreamfusion.callbacks.curves import Curves
from nemo_dreamfusion.callbacks.interrupt import SaveOnInterrupt
from nemo_dreamfusion.callbacks.live_viewer import LiveViewer
from nemo_dreamfusion.callbacks.non_finite import SkipNonFinite
from nemo_dreamfusion.launch.configuration import prepare_config
from nemo_dreamfusion.launch.fail_together import fail_together
from nemo_dreamfusion.launch.folder_lock import only_one
from nemo_dreamfusion.launch.logging import log_files_of_a_run
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.launch.reporting import collected_warnings, report
from nemo_dreamfusion.launch.run_folder import (
    ARCHIVE,
    check_resumed,
    config_text,
    is_finished,
    mark_complete,
    pin_mesh,
    prepare_folder,
)
from nemo_dreamfusion.launch.starting import read_mesh, start
from nemo_dreamfusion.launch.trainer import (
    is_complete,
    is_out_of_time,
    make_export_options,
    make_preview,
    make_progress_callbacks,
    make_trainer,
)
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.build import read_options
from nemo_dreamfusion.parts.files import check_space, write_atomically
from nemo_dreamfusion.parts.ranks import is_global_rank_zero
from nemo_dreamfusion.viewer.options import ViewerOptions

COPIES = 5  # of the weights on the disk: a checkpoint with Adam's two moments, the archive and what it is packed from
FILES = ('preview.png', 'turntable.mp4', 'mesh.glb', ARCHIVE, 'metrics.json', 'config.yaml', 'report.html')


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the fit after a whole step, with a checkpoint from which the same call goes on."""

    def __init__(self, folder: Path, exit_code: int) -> None:
        super().__init__(folder, exit_code)
        self.folder = folder
        self.exit_code = exit_code  # 128 + the signal's number, as shells have it


@dataclass(frozen=True)
class FitResult:
    """What :func:`fit` made."""

    folder: Path  # of the run
    status: str  # 'finished'; 'skipped': an earlier call had finished it; 'stopped' before its last step: see remark
    model: DreamFusion
    metrics: dict[str, Any]  # what metrics.json holds: steps, fit_seconds, diagnosis, last_step, ...; {} when stopped
    files: tuple[Path, ...]  # those of FILES that are there
    remark: str = ''  # why it stopped, and where


def fit(cfg: DictConfig, *, callbacks: Sequence[pl.Callback] = ()) -> FitResult:
    """Make the object of ``cfg.model.prompt`` and leave pictures, turntable, mesh and archive in the run's folder.

        result = fit(load_config(overrides=['model.prompt=a duck', 'exp_manager.exp_dir=results']))
        result.model.render_cameras(...)

    The same call goes on with a run that was stopped, killed or out of time, and returns one that is finished.

    Args:
        cfg: of :func:`nemo_dreamfusion.launch.load_config`, or composed by Hydra.
        callbacks: of Lightning, beside the run's own.

    Raises:
        ValueError: for settings that cannot work, or a folder that holds a run of other settings.
        OSError: when a checkpoint or the archive cannot be written.
        FitInterrupted: after Ctrl-C or SIGTERM.
        OtherProcessError: when another process of this fit failed.
    """
    cfg = prepare_config(cfg, 'fit')
    pin_mesh(cfg)
    model = DreamFusion(cfg.model)
    model.guidance.check_prompts(model.prompts)
    folder = prepare_folder(cfg, model.prompts)
    if (before := _finished_before(cfg, folder)) is not None:  # without a lock: nothing is written
        return before
    with only_one(folder), log_files_of_a_run():
        return _finished_before(cfg, folder) or _fit(cfg, model, folder, callbacks)


def _finished_before(cfg: DictConfig, folder: Path) -> FitResult | None:
    check_resumed(cfg, folder)
    if not is_finished(folder, cfg.trainer.max_steps):
        return None
    return _result(folder, 'skipped', DreamFusion.restore_from(str(folder / ARCHIVE), map_location='cpu'))


def _fit(cfg: DictConfig, model: DreamFusion, folder: Path, callbacks: Sequence[pl.Callback]) -> FitResult:
    own = read_mesh(cfg, model.mesh_mode)  # refuses a file before there is anything else
    check_space(folder, COPIES * _bytes(model), 'exp_manager.exp_dir')
    interrupt, curves = SaveOnInterrupt(), Curves()
    viewer = _make_viewer(cfg, folder, interrupt)
    trainer = make_trainer(cfg, folder, [*_make_callbacks(cfg, folder), curves, *viewer, interrupt, *callbacks])
    # After exp_manager, which moves the files of a resumed run to run_0, run_1, ...
    if is_global_rank_zero():
        write_atomically(folder / 'config.yaml', config_text(cfg))
    model.set_trainer(trainer)
    start(cfg, model, own)
    with fail_together(trainer), collected_warnings() as warnings:
        trainer.fit(model, datamodule=instantiate(cfg.model.data))
    if interrupt.interrupted:
        raise FitInterrupted(folder, interrupt.exit_code)
    if not is_complete(trainer):
        reason = 'Out of time' if is_out_of_time(trainer) else 'Stopped'
        remark = f'{reason} at step {trainer.global_step} of {trainer.max_steps}'
        return FitResult(folder, 'stopped', model, {}, _files(folder), remark)
    model.save_to(str(folder / ARCHIVE))
    if is_global_rank_zero():
        mark_complete(folder, trainer.max_steps)
    report(cfg, model, folder, curves.read(), warnings)
    return _result(folder, 'finished', model)


def _make_callbacks(cfg: DictConfig, folder: Path) -> list[pl.Callback]:
    skip = SkipNonFinite(limit=cfg.max_skipped_in_a_row)
    # The preview's clock of a step stops before the collapse detection renders
    return [*make_progress_callbacks(cfg), skip, make_preview(cfg, folder), CollapseDetection()]


def _make_viewer(cfg: DictConfig, folder: Path, interrupt: SaveOnInterrupt) -> list[pl.Callback]:
    options = read_options('viewer', ViewerOptions, to_plain(cfg).get('viewer'))
    return [LiveViewer(options, folder, interrupt, make_export_options(cfg))] if options.enabled else []


def _bytes(model: DreamFusion) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _result(folder: Path, status: str, model: DreamFusion) -> FitResult:
    path = folder / 'metrics.json'
    metrics = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    return FitResult(folder, status, model, metrics, _files(folder))


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in FILES if (folder / name).is_file())
