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

"""The commands of a terminal: arguments in, one line for what a user can mend, an exit code out.

Only this file decides how the process ends. Exit codes: 0 finished, 1 some objects of a list failed, 2 a wrong setting, 74
a file that cannot be read or written, 75 stopped before the last step (a scheduler may queue the same command again), 130,
138 and 143 after Ctrl-C, SIGUSR1 and SIGTERM.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nemo_dreamfusion.launch.deferred_packages import defer_packages
from nemo_dreamfusion.launch.paths import CONF, troubleshooting_page
from nemo_dreamfusion.launch.quick_exit import run_and_exit
from nemo_dreamfusion.launch.quick_imports import imports_without_collection
from nemo_dreamfusion.launch.terminal import prepare_terminal

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger('nemo_dreamfusion.launch.command_line')

WRONG_SETTING, SOME_FAILED, FILE_ERROR, UNFINISHED = 2, 1, 74, 75  # the last two of sysexits.h
MORE = 'When it does not work'  # the title of the page


def main() -> None:
    """Make, render or export an object: ``nemo-dreamfusion`` and ``examples/dreamfusion.py``."""
    with exit_in_one_line():
        prepare_terminal()
        sys.argv[1:] = _our_arguments(sys.argv[1:])
    defer_packages()
    _run_with_hydra(run, 'dreamfusion')


def command() -> NoReturn:
    """Be the whole process of ``nemo-dreamfusion``: :func:`main`, which a program may call too, and a quick end.

    The other commands end as Python does: they are rare or long, and a second is nothing to them.
    """
    run_and_exit(main)


def main_evaluate() -> None:
    """Score objects: ``nemo-dreamfusion-evaluate`` and ``examples/evaluate.py``."""
    from nemo_dreamfusion.launch.arguments import prepare_arguments

    with exit_in_one_line():
        prepare_terminal()
        sys.argv[1:] = prepare_arguments(sys.argv[1:])
    _run_with_hydra(_evaluate, 'evaluate')


def main_bench() -> None:
    """Compare recipes on objects whose true shape is known: ``nemo-dreamfusion-bench``."""
    from nemo_dreamfusion.launch.arguments import prepare_arguments

    with exit_in_one_line():
        prepare_terminal()
        sys.argv[1:] = prepare_arguments(sys.argv[1:])
    _run_with_hydra(_bench, 'bench')


def main_convert(arguments: Sequence[str] | None = None) -> None:
    """Convert an archive of NeMo to a folder in diffusers' format, or back; or a model in one file to a folder.

        nemo-dreamfusion-convert source=<file>.nemo target=<folder> [tokenizer=<folder or hub id>]
        nemo-dreamfusion-convert source=<folder> target=<file>.nemo [tokenizer=<folder or hub id>]
        nemo-dreamfusion-convert source=pocket target=pocket.nemo
        nemo-dreamfusion-convert source=model.safetensors target=<folder> [tokenizer=<folder or hub id>]
        nemo-dreamfusion-convert source=sd-v2.1-base-4view.pt target=mvdream tokenizer=<folder or hub id>

    Tensors keep their values and types. context_length=80 (or null) says to what length text embeddings are padded; left
    out, the target keeps what the source says. unnormalised_kv=true is for archives whose weights NeMo v1.23 itself
    trained. force=true replaces a target that exists.
    """
    given = _arguments_or_help(arguments, main_convert)
    with exit_in_one_line(file_error=WRONG_SETTING):
        from nemo_dreamfusion.checkpoints.convert import convert
        from nemo_dreamfusion.launch.key_values import read_arguments

        values = read_arguments(given, convert, source='<.nemo or folder>', target='<folder or .nemo>')
        for note in convert(**values):
            print(f'note: {note}')
        print(f'Done: {values["target"]}')


def main_gallery(arguments: Sequence[str] | None = None) -> None:
    """Make a page over finished runs, small enough to publish.

    python examples/gallery.py runs=<folder of runs> [out=docs/gallery] [faces=6000] [texture_size=384] [limit_mb=8]
    """
    given = _arguments_or_help(arguments, main_gallery)
    with exit_in_one_line(file_error=WRONG_SETTING):
        from nemo_dreamfusion.launch.gallery import make_gallery
        from nemo_dreamfusion.launch.key_values import read_arguments

        print(f'Done: {make_gallery(**read_arguments(given, make_gallery, runs="<folder of runs>"))}')


def main_build_engines(arguments: Sequence[str] | None = None) -> None:
    """Build the engines of a Stable Diffusion, for ``model/guidance=sd_trt``.

        nemo-dreamfusion-build-engines source=<.nemo, folder, hub id or pocket> out_dir=<folder> [engine=onnxruntime]
        nemo-dreamfusion-build-engines source=pocket out_dir=engines engine=onnxruntime
        nemo-dreamfusion-build-engines source=sd.nemo out_dir=engines engine=tensorrt precision=16 max_batch_size=8

    Writes onnx/ and plan/ with clip, unet and vae, and plan/conf.yaml. engine=tensorrt needs an NVIDIA GPU, and its plans
    serve that GPU and that version of TensorRT; engine=onnxruntime runs anywhere. force=true replaces engines that are
    there.
    """
    given = _arguments_or_help(arguments, main_build_engines)
    with exit_in_one_line(file_error=WRONG_SETTING):
        from nemo_dreamfusion.export.engines import build_engines
        from nemo_dreamfusion.launch.key_values import read_arguments
        from nemo_dreamfusion.launch.logging import configure_logging

        configure_logging('warning')
        values = read_arguments(given, build_engines, source='<.nemo or folder>', out_dir='<folder>')
        for name, difference in build_engines(**values).items():
            print(f'{name}.plan gives what torch gives, to {difference:.1e} of the largest output')
        print(f'Done: {values["out_dir"]}')


def main_train_pocket(arguments: Sequence[str] | None = None) -> None:
    """Train the pocket Stable Diffusion from a seed: renders, autoencoder, UNet and text encoder, weights folder.

        nemo-dreamfusion-train-pocket                                  # everything; hours on two cores
        nemo-dreamfusion-train-pocket work_dir=/tmp/p diffusion.finish_at=18:30
        nemo-dreamfusion-train-pocket diffusion.steps=40000            # go on with a finished training
        nemo-dreamfusion-train-pocket start_from=nemo_dreamfusion/pocket/weights   # improve what ships, from its weights
        touch pocket_training/FINISH                                   # end early: decay the rate, publish, stop
        nemo-dreamfusion-train-pocket diffusion.steps=0 out=nemo_dreamfusion/pocket/weights   # ship what was trained so far

    It can be stopped at any time and started again with the same command: each stage goes on from its last checkpoint. The
    weights appear in <work_dir>/weights, or in out=<folder>. With diffusion.steps at or below the steps already made, the
    same command publishes the last checkpoint without training. Every field of TrainConfig
    (nemo_dreamfusion/pocket/training/train.py) can be set as name=value.
    """
    given = _arguments_or_help(arguments, main_train_pocket)
    with exit_in_one_line(file_error=WRONG_SETTING):
        from nemo_dreamfusion.launch.key_values import read_dataclass
        from nemo_dreamfusion.pocket.training.train import TrainConfig, train

        train(read_dataclass(given, TrainConfig))


def run(cfg: DictConfig) -> None:
    """Do what a composed configuration asks for; Hydra calls it, once for each job of a list of prompts."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from nemo_dreamfusion.launch.configuration import keep_texts

    keep_texts(cfg)
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        from nemo_dreamfusion.launch.sweep import run_job

        run_job(Path(hydra.runtime.output_dir), cfg.model.prompt, lambda: _run_one_of_many(cfg))
    else:
        run_one(cfg)


def run_one(cfg: DictConfig) -> None:
    """Do what a configuration asks for, and end the process with an exit code when that is not finished."""
    from nemo_dreamfusion.launch.configuration import refuse_early

    with exit_in_one_line():
        with imports_without_collection():
            cfg = refuse_early(cfg)
            from nemo_dreamfusion.launch.fail_together import OtherProcessError  # imports Lightning

            if cfg.mode == 'fit':
                import_module('nemo_dreamfusion.launch.fitting')
        try:
            _run_mode(cfg)
        except OtherProcessError as error:
            sys.exit(_say(error, error.exit_code))


def _run_one_of_many(cfg: DictConfig) -> tuple[str, Path]:
    from nemo_dreamfusion.launch.configuration import refuse_early
    from nemo_dreamfusion.parts.checks import refuse

    cfg = refuse_early(cfg)
    devices = cfg.trainer.get('devices', 'auto')
    if devices not in (1, '1'):
        advice = 'Set trainer.devices=1, and let hydra/launcher run prompts side by side.'
        refuse('trainer.devices', devices, '1 with a list of prompts, each of which has one device', advice)
    return _run_mode(cfg)


def _run_mode(cfg: DictConfig) -> tuple[str, Path]:
    """Do what ``refuse_early`` took: fit, render or export, and print what was made.

    Returns:
        The status of the job, and where its results are.
    """
    from nemo_dreamfusion import launch
    from nemo_dreamfusion.parts.ranks import is_global_rank_zero

    say: Callable[..., None] = print if is_global_rank_zero() else lambda *_: None
    mode = cfg.mode
    if mode == 'fit':
        return _fit(cfg, say)
    if mode == 'export-mesh':
        mesh = launch.export(cfg)
        say(f'{mesh.vertices} vertices, {mesh.faces} faces')
        where = mesh.path
    elif mode == 'view':
        where = launch.view(cfg)
    else:
        where = launch.render(cfg).folder
    say(f'Done: {where}')
    return 'finished', where


def _fit(cfg: DictConfig, say: Callable[..., None]) -> tuple[str, Path]:
    from nemo_dreamfusion import launch

    try:
        made = launch.fit(cfg)
    except launch.FitInterrupted as stop:
        sys.exit(stop.exit_code)
    if made.status == 'stopped':
        say(f'{made.remark}: the same command goes on from there.')
        sys.exit(UNFINISHED)
    if made.status == 'skipped':
        say(f'Finished before: {made.folder}; remove it, or set trainer.max_steps higher to go on')
    else:
        say(f'Done: {made.folder}')
    return made.status, made.folder


def _evaluate(cfg: DictConfig) -> None:
    """Score what the configuration names; the exit code is 1 when an object could not be made or scored."""
    from nemo_dreamfusion.launch.evaluation import evaluate, table
    from nemo_dreamfusion.launch.logging import configure_logging

    with exit_in_one_line(file_error=WRONG_SETTING):
        configure_logging('warning')
        result = evaluate(cfg)
        print(table(result))
        for failure in result.failed:
            sys.stderr.write(f'error: {failure.name}: {failure.reason}\n')
    sys.exit(SOME_FAILED if result.failed else 0)


def _bench(cfg: DictConfig) -> None:
    """Run a benchmark; the exit code is 1 when an object could not be made or measured."""
    from nemo_dreamfusion.launch.benchmarking.analytic_report import bench_analytic
    from nemo_dreamfusion.launch.benchmarking.edits import bench_edits
    from nemo_dreamfusion.launch.benchmarking.running import bench
    from nemo_dreamfusion.launch.logging import configure_logging
    from nemo_dreamfusion.parts.checks import check_choice

    with exit_in_one_line(file_error=WRONG_SETTING):
        configure_logging('warning')
        out = Path(cfg.out).expanduser()
        if 'edits' in cfg:
            edited = bench_edits(cfg)
            print((out / 'table.md').read_text(encoding='utf-8'))
            print(f'Done: {out / "edits.md"}')
            for one in edited['failed']:
                sys.stderr.write(f'error: {one["row"]}, edit {one["edit"]}, {one["target"]}: {one["reason"]}\n')
            sys.exit(SOME_FAILED if edited['failed'] else 0)
        if check_choice('analytic', cfg.analytic, (False, True)):
            bench_analytic(cfg)
            print((out / 'analytic.md').read_text(encoding='utf-8'))
            return
        results = bench(cfg)
        print((out / 'table.md').read_text(encoding='utf-8'))
        print(f'Done: {out / "leaderboard.md"}')
        for one in results['failed']:
            sys.stderr.write(f'error: {one["row"]}, seed {one["seed"]}, {one["prompt"]}: {one["reason"]}\n')
    sys.exit(SOME_FAILED if results['failed'] else 0)


@contextmanager
def exit_in_one_line(file_error: int = FILE_ERROR) -> Iterator[None]:
    """Say what a user can mend in one line, and end the process with an exit code."""
    try:
        yield
    except ValueError as error:
        sys.exit(_say(error, WRONG_SETTING))
    except OSError as error:  # a full disk, a folder that became read-only, a hub that does not answer
        sys.exit(_say(error, file_error))
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def plain_override_errors() -> Iterator[None]:
    """Say what Hydra does not take of a command line in one line that names what to write; then the exit code is 2."""
    from hydra.errors import CompactHydraException

    from nemo_dreamfusion.launch.override_errors import override_error

    os.environ.setdefault('HYDRA_FULL_ERROR', '1')  # Hydra raises instead of printing
    try:
        yield
    except CompactHydraException as error:
        sys.exit(_say(ValueError(override_error(error)), WRONG_SETTING))


def _run_with_hydra(task: Callable[[DictConfig], None], config_name: str) -> None:
    from nemo_dreamfusion.launch.hydra_app import run_with_hydra

    with plain_override_errors():
        run_with_hydra(task, CONF, config_name)


def _our_arguments(arguments: list[str]) -> list[str]:
    """Write ``prompts_file`` out as a sweep, and NeMo's keys as ours unless the configuration is the user's own."""
    from nemo_dreamfusion.launch.arguments import comma_note, prepare_arguments
    from nemo_dreamfusion.launch.nemo2_config import translate_arguments, warning
    from nemo_dreamfusion.launch.prompts_file import expand_prompts_file
    from nemo_dreamfusion.parts.ranks import is_global_rank_zero

    arguments = expand_prompts_file(arguments)
    left_out: dict[str, str] = {}
    if not any(argument.startswith(('--config-path', '-cp')) for argument in arguments):
        arguments, left_out = translate_arguments(arguments)
    if is_global_rank_zero():
        for note in (comma_note(arguments), warning(left_out) if left_out else None):
            if note:
                logger.warning(note)
    return prepare_arguments(arguments)


def _arguments_or_help(arguments: Sequence[str] | None, command: Callable) -> list[str]:
    if arguments is None:
        with exit_in_one_line():
            prepare_terminal()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {'-h', '--help'} & set(given):
        print(inspect.getdoc(command))
        sys.exit(0)
    return given


def _say(error: BaseException, code: int) -> int:
    more = f' ({MORE}: {troubleshooting_page()})'
    sys.stderr.write(f'error: {error}{more}\n')  # at once: several processes may write
    return code
