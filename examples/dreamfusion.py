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


"""From a sentence to a 3-D object.

    python examples/dreamfusion.py --config-name dreamfusion model.prompt='a red cube on top of a blue cylinder'
    python examples/dreamfusion.py --config-name dreamfusion trainer.max_steps=50 exp_manager.exp_dir=/some/where
    python examples/dreamfusion.py prompts_file=examples/prompts.txt hydra/launcher=joblib
    python examples/dreamfusion.py --multirun model.prompt='a hamburger','a snowman'
    python examples/dreamfusion.py --config-name dreamfusion mode=test restore_from_path=DreamFusion.nemo
    python examples/dreamfusion.py --config-name dreamfusion mode=export-mesh restore_from_path=DreamFusion.nemo

The results stand in <exp_dir>/<slug of the prompt>-<hash>/; those of a list of prompts are summed up in <exp_dir>/summary.md
and <exp_dir>/contact_sheet.png.
"""

# ruff: noqa: E402
import logging
import os
import sys
from pathlib import Path

logging.getLogger('nv_one_logger').setLevel(logging.ERROR)  # telemetry that is off, and says so while it is imported
os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')  # else each process of several gives wrong advice on DDP

import lightning.pytorch as pl
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EarlyStopping, Timer
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from nemo.utils.get_rank import is_global_rank_zero
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_dreamfusion.callbacks.collapse import CollapseDetection
from nemo_dreamfusion.callbacks.ema import MovingAverage
from nemo_dreamfusion.callbacks.exact_resume import ExactResume
from nemo_dreamfusion.callbacks.interrupt import SaveOnInterrupt
from nemo_dreamfusion.callbacks.non_finite import SkipNonFinite
from nemo_dreamfusion.callbacks.preview import Preview
from nemo_dreamfusion.callbacks.progress import ProgressBar
from nemo_dreamfusion.export.mesh import export_mesh
from nemo_dreamfusion.launch.checkpoint_io import SafeCheckpointIO, newest_good, settle
from nemo_dreamfusion.launch.fail_together import OtherProcessError, together
from nemo_dreamfusion.launch.logging import configure_logging
from nemo_dreamfusion.launch.nemo2_config import is_nemo_2, translate, translate_arguments, warning
from nemo_dreamfusion.launch.prompts_file import expand_prompts_file
from nemo_dreamfusion.launch.run_folder import check_same_object, config_of_run, is_finished, mark_complete, run_name
from nemo_dreamfusion.launch.sweep import run_job
from nemo_dreamfusion.launch.validate_config import check_config, plain_override_errors
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.models.nemo_archive import check_archive
from nemo_dreamfusion.modules.guidance.old_options import translate_old_guidance
from nemo_dreamfusion.parts.build import flat
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import check_writable, write_atomically
from nemo_dreamfusion.parts.precision import check_scene_precision

logger = logging.getLogger('nemo_dreamfusion.examples')
UNFINISHED = 75  # exit code of a run that ended before its last step: a scheduler may queue the same command again


def in_our_keys(cfg: DictConfig) -> DictConfig:
    """The configuration itself, or what a configuration of NeMo's own DreamFusion, or of the release before, means here."""
    if not is_nemo_2(cfg):
        if OmegaConf.is_dict(cfg.get('model')) and OmegaConf.is_dict(cfg.model.get('guidance')):
            guidance = OmegaConf.to_container(cfg.model.guidance, resolve=False)
            OmegaConf.update(cfg, 'model.guidance', translate_old_guidance(guidance), merge=False, force_add=True)
        return cfg
    overrides, left_out = translate(dict(flat(OmegaConf.to_container(cfg, resolve=True))))
    hydra, running = GlobalHydra.instance(), GlobalHydra.instance().hydra
    hydra.clear()
    try:
        with initialize_config_dir(str(Path(__file__).parents[1] / 'nemo_dreamfusion' / 'conf'), version_base=None):
            ours = compose('dreamfusion', overrides=overrides)
    except HydraException as error:
        raise ValueError(f'This configuration of NeMo 2 asks for what is not here: {error}') from error
    finally:
        hydra.hydra = running
    if is_global_rank_zero():
        logger.warning(warning(left_out))
    return ours


def one_of_many() -> bool:
    """Whether this is a job of a list of prompts."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def check(cfg: DictConfig) -> None:
    """Everything that can be known to be wrong before any work."""
    check_config(
        cfg, shipped=OmegaConf.load(Path(__file__).parents[1] / 'nemo_dreamfusion' / 'conf' / 'dreamfusion.yaml')
    )
    check_scene_precision(cfg.trainer.get('precision'))
    if cfg.mode != 'fit' and not cfg.restore_from_path:
        raise ValueError(f'mode={cfg.mode} needs a finished object: set restore_from_path=<file>.nemo.')
    if cfg.restore_from_path:
        check_archive(cfg.restore_from_path)
    if cfg.trainer.get('max_time') is not None:
        advice = (
            'It counts all runs of a folder together: set exp_manager.max_time_per_run=days:hours:minutes:seconds.'
        )
        refuse('trainer.max_time', cfg.trainer.max_time, 'left out', advice)
    if cfg.mode == 'export-mesh':
        check_writable(Path(cfg.mesh_fname).resolve().parent, 'mesh_fname')
    devices = cfg.trainer.get('devices', 'auto')
    if one_of_many() and devices not in (1, '1'):
        advice = 'Set trainer.devices=1, and let hydra/launcher run prompts side by side.'
        refuse('trainer.devices', devices, '1 with a list of prompts, each of which has one device', advice)


def run_folder(cfg: DictConfig, model: DreamFusion) -> Path:
    """The run's own folder, which must be writable and, if it holds a run, hold this one."""
    texts = {'negative': model.prompts.negative, **model.prompts.by_view()}
    explicit = cfg.exp_manager.get('explicit_log_dir')
    own = Path(cfg.exp_manager.get('exp_dir') or 'results') / run_name(model.prompts.prompt, texts)
    folder = Path(explicit or own).resolve()
    check_writable(folder, 'exp_manager.explicit_log_dir' if explicit else 'exp_manager.exp_dir')
    return folder


def check_resumed(cfg: DictConfig, folder: Path) -> None:
    """Refuses to go on with a run of other settings."""
    before = config_of_run(folder)
    if before is not None:
        now = OmegaConf.to_container(cfg, resolve=True)
        check_same_object(folder, before, now)


def preview(cfg: DictConfig, folder: Path) -> Preview:
    """The callback that leaves the pictures."""
    return Preview(folder=folder, interval=cfg.preview_interval, mesh_resolution=cfg.mesh_resolution)


def make_trainer(cfg: DictConfig, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A Lightning trainer under NeMo's exp_manager, writing in the run's folder."""
    average = MovingAverage.from_config(cfg.exp_manager.get('ema'))  # instead of NeMo's, which cannot be resumed
    callbacks = [*average, ExactResume(), *callbacks]
    trainer = pl.Trainer(**cfg.trainer, callbacks=callbacks, plugins=[SafeCheckpointIO()])
    settings = cfg.exp_manager.copy()
    with open_dict(settings):
        settings.explicit_log_dir, settings.exp_dir, settings.name = str(folder), None, None
        settings.pop('ema', None)
        settings.create_preemption_callback = False  # NeMo's: after SIGTERM its exit code would be 0
        settings.disable_validation_on_resume = False  # else the first validation after a resume is left out
        if settings.get('create_early_stopping_callback'):
            OmegaConf.update(settings, 'early_stopping_callback_params.strict', False)  # resumed where an epoch ends
        if settings.get('resume_if_exists'):
            find = settle if is_global_rank_zero() else newest_good
            newest = find(folder / 'checkpoints')
            settings.resume_from_checkpoint = str(newest) if newest else settings.get('resume_from_checkpoint')
            settings.resume_if_exists = False  # NeMo's own search would look while the first rank clears up
    exp_manager(trainer, settings)
    return trainer


def out_of_time(trainer: pl.Trainer) -> bool:
    """Whether exp_manager.max_time_per_run has passed."""
    return any(isinstance(callback, Timer) and callback.time_remaining() <= 0 for callback in trainer.callbacks)


def is_complete(trainer: pl.Trainer) -> bool:
    """Whether all steps were made, or early stopping found that the rest is not needed."""
    can_stop = any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks)
    early = can_stop and trainer.should_stop and not out_of_time(trainer)  # else trainer.max_epochs ended it
    return trainer.global_step >= trainer.max_steps or early


def fit(cfg: DictConfig) -> tuple[str, Path]:
    """Makes the object, or goes on with it, and leaves pictures, turntable, mesh and archive."""
    model = DreamFusion(cfg.model)
    model.guidance.check_prompts(model.prompts)
    folder = run_folder(cfg, model)
    check_resumed(cfg, folder)
    if is_finished(folder, cfg.trainer.max_steps):
        return 'skipped', folder
    interrupt, skip = SaveOnInterrupt(), SkipNonFinite(limit=cfg.max_skipped_in_a_row)
    # The preview's clock of a step stops before the collapse detection renders
    callbacks = [ProgressBar(), skip, preview(cfg, folder), CollapseDetection(), interrupt]
    trainer = make_trainer(cfg, folder, callbacks)
    # After exp_manager, which moves the files of a resumed run to run_0, run_1, ...
    if is_global_rank_zero():
        write_atomically(folder / 'config.yaml', OmegaConf.to_yaml(cfg, resolve=True))
    model.set_trainer(trainer)
    if cfg.restore_from_path:
        model.start_from(cfg.restore_from_path)
    with together(trainer):
        trainer.fit(model, datamodule=instantiate(cfg.model.data))
    if interrupt.interrupted:
        sys.exit(interrupt.exit_code)  # 130 after Ctrl-C, 143 after SIGTERM; the checkpoint is written
    if not is_complete(trainer):
        steps = f'step {trainer.global_step} of {trainer.max_steps}'
        if is_global_rank_zero():
            reason = 'Out of time' if out_of_time(trainer) else 'Stopped'
            print(f'{reason} at {steps}: the same command goes on from there.')
        sys.exit(UNFINISHED)
    model.save_to(str(folder / 'DreamFusion.nemo'))
    if is_global_rank_zero():
        mark_complete(folder, trainer.max_steps)
    return 'finished', folder


def evaluate(cfg: DictConfig) -> tuple[str, Path]:
    """mode=validate and mode=test: renders the held-out views of a finished object and saves them."""
    model = DreamFusion.restore_from(cfg.restore_from_path, map_location='cpu')
    folder = run_folder(cfg, model)
    trainer = pl.Trainer(**cfg.trainer, callbacks=[ProgressBar(), preview(cfg, folder)])
    run = trainer.validate if cfg.mode == 'validate' else trainer.test
    with together(trainer):
        run(model, datamodule=instantiate(cfg.model.data), verbose=False)
    return 'finished', folder


def export(cfg: DictConfig) -> tuple[str, Path]:
    """mode=export-mesh: the surface of a finished object, with its colours, as a file."""
    model = DreamFusion.restore_from(cfg.restore_from_path, map_location='cpu')
    mesh = export_mesh(model, cfg.mesh_fname, resolution=cfg.mesh_resolution)
    print(f'{len(mesh.vertices)} vertices, {len(mesh.faces)} faces')
    return 'finished', Path(cfg.mesh_fname).resolve()


def run(cfg: DictConfig) -> tuple[str, Path]:
    """Reads the mode and runs it; the status, and where the results are."""
    cfg = in_our_keys(cfg)
    configure_logging(cfg.log_level)
    check(cfg)
    status, where = {'fit': fit, 'validate': evaluate, 'test': evaluate, 'export-mesh': export}[cfg.mode](cfg)
    if is_global_rank_zero():
        longer = 'remove it, or set trainer.max_steps higher to go on'
        print(f'Done: {where}' if status == 'finished' else f'Finished before: {where}; {longer}')
    return status, where


@hydra_runner(config_path='../nemo_dreamfusion/conf', config_name='dreamfusion')
def main(cfg: DictConfig) -> None:
    """One object, or one of a list; what a user can mend is said in one line."""
    if one_of_many():
        run_job(Path(HydraConfig.get().runtime.output_dir), cfg.model.prompt, lambda: run(cfg))
        return
    try:
        run(cfg)
    except ValueError as error:
        sys.exit(_say(error))
    except OSError as error:  # a full disk, a folder that became read-only, a hub that does not answer
        sys.exit(_say(error, code=74))  # EX_IOERR of sysexits.h
    except OtherProcessError as error:
        sys.exit(_say(error, code=error.exit_code))
    except KeyboardInterrupt:
        sys.exit(130)


def _say(error: Exception, code: int = 2) -> int:
    sys.stderr.write(f'error: {error}\n')  # at once: several processes may write
    return code


if __name__ == '__main__':
    try:
        arguments, left_out = translate_arguments(expand_prompts_file(sys.argv[1:]))
        if not any(
            argument.startswith(('--config-path', '-cp')) for argument in arguments
        ):  # ours: NeMo's keys mean ours
            sys.argv[1:] = arguments
            if left_out and is_global_rank_zero():
                logger.warning(warning(left_out))
    except ValueError as error:
        sys.exit(_say(error))
    with plain_override_errors():
        main()
