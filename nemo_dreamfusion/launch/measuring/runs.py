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

"""The finished objects that are to be judged, found and checked before any work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_dreamfusion.launch.run_folder import ARCHIVE
from nemo_dreamfusion.metrics.captions import normalise
from nemo_dreamfusion.models.nemo_archive import check_archive, stored_config
from nemo_dreamfusion.parts.checks import refuse
from nemo_dreamfusion.parts.files import sha256_of
from nemo_dreamfusion.parts.prompt_list import read_prompts
from nemo_dreamfusion.parts.texts import keep_texts_literal


@dataclass(frozen=True)
class Failure:
    """A prompt or a file that could not be made or scored."""

    name: str
    reason: str


@dataclass(frozen=True)
class FinishedRun:
    """An object, by the name of its run's folder and the beginning of its archive's checksum."""

    name: str
    prompt: str
    sha256: str
    archive: Path | None = None  # None on a machine that has its pictures only


def find_archives(runs: Any, nemo_files: Sequence[str]) -> list[Path]:
    """Return the archives that two settings name: folders with runs at any depth, and single files.

    A resumed run counts once: what NeMo moved to its ``run_0``, ``run_1``, ... is left out, unless that folder is named.

    Raises:
        ValueError: for a folder that is not there or has no finished run in it, or a file that is not there.
    """
    folders = [runs] if isinstance(runs, str) else list(runs or ())
    found = []
    for folder in folders:
        where = Path(folder)
        every = {*where.rglob(ARCHIVE), *where.glob(f'*/{ARCHIVE}')}  # the second goes through links
        archives = sorted(path for path in every if path.parent == where or not _is_of_before(path))
        if not archives:
            refuse('runs', folder, f'a folder with finished runs in it, each with its {ARCHIVE}')
        found += archives
    for path in nemo_files:
        if not Path(path).exists():
            raise ValueError(f'nemo_files names {path!r}, which does not exist: give the paths of .nemo files.')
        found.append(Path(path))
    return list({path.resolve(): path for path in found}.values())


def read_runs(archives: Iterable[Path]) -> list[FinishedRun]:
    """Check archives and read their prompts, without restoring them; in the order of their names.

    Raises:
        ValueError: when one is damaged, holds no prompt, or is a copy of another.
    """
    runs: dict[str, FinishedRun] = {}
    for path in archives:
        check_archive(path)
        digest = sha256_of(path)
        if digest in runs:
            raise ValueError(f'{path} is a copy of {runs[digest].archive}: an object counts once; remove one.')
        stem = path.resolve().parent.name if path.name == ARCHIVE else path.name.removesuffix('.nemo')
        runs[digest] = FinishedRun(f'{stem}-{digest[:8]}', _read_prompt(path), digest, path)
    return sorted(runs.values(), key=lambda run: run.name)


def check_prompts_file(path: str, runs: Sequence[FinishedRun]) -> None:
    """Refuse a prompt of a file that no run was made for, and a run whose prompt is not in it.

    Raises:
        ValueError: naming the first, and how many there are.
    """
    asked = {normalise(prompt): prompt for prompt in read_prompts(path)}
    made = {normalise(run.prompt): run for run in runs}
    if without := [prompt for key, prompt in asked.items() if key not in made]:
        raise ValueError(
            f'prompts_file = {path!r} holds {without[0]!r}{_more(without)}, and no run was made for it: make it '
            f'(nemo-dreamfusion prompts_file={path}), or take the line out.'
        )
    if others := [run for key, run in made.items() if key not in asked]:
        raise ValueError(
            f'prompts_file = {path!r} does not hold {others[0].prompt!r}{_more(others)}, the prompt of {others[0].archive}: '
            'add the line, or leave the run out.'
        )


def _is_of_before(path: Path) -> bool:
    """Return whether an archive is in a ``run_0``, ``run_1``, ... to which NeMo moved the files of a resumed run."""
    above = path.parent.parent
    moved = re.fullmatch(r'run_\d+', path.parent.name) is not None
    return moved and any((above / name).is_file() for name in (ARCHIVE, 'config.yaml'))


def _more(found: Sequence[object]) -> str:
    return f' (and {len(found) - 1} more)' if len(found) > 1 else ''


def _read_prompt(path: Path) -> str:
    try:
        model = OmegaConf.create(stored_config(path))
        keep_texts_literal(model)
        prompt = model.prompt
    except (OmegaConfBaseException, OSError, ValueError):
        prompt = None
    if not isinstance(prompt, str):
        raise ValueError(f'{path} holds no prompt: give the {ARCHIVE} of a run.')
    return prompt
