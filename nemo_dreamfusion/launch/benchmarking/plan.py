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

"""What a benchmark is to do: its suite, its rows, its fits, and what of it may not change within one folder."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_dreamfusion.launch.benchmarking.first_meshes import MESHES
from nemo_dreamfusion.launch.benchmarking.suites import read_suite
from nemo_dreamfusion.launch.configuration import load_config, prepare_config
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.launch.prompts_file import quoted
from nemo_dreamfusion.launch.run_folder import ARCHIVE, run_name, what_counts
from nemo_dreamfusion.models.dreamfusion import DreamFusion
from nemo_dreamfusion.parts.build import PLUGINS, read_plugins
from nemo_dreamfusion.parts.checks import check_choice, check_keys, check_range, first_line, refuse
from nemo_dreamfusion.parts.files import check_writable, write_atomically
from nemo_dreamfusion.pocket.world.prompts import build_scene

SETTINGS = 'settings.json'  # in the folder of a benchmark
# A fit shows nothing beside its object, which is measured later
QUIET = ('mesh_resolution=0', 'turntable_frames=0', 'pictures=[]', 'preview_interval=0', 'model.data.val.views=1')
OF_RECIPES = ('config', 'after', 'mesh')  # keys of a row that are no overrides
_ROW_NAME = r'\w[\w.-]{0,63}'


@dataclass(frozen=True)
class Scoring:
    """How an object is measured: pixels of a view, corners of the mesh's grid, points of a surface, scenes of a gallery."""

    resolution: int
    mesh_resolution: int
    points: int
    gallery: int

    def __post_init__(self) -> None:
        check_range('resolution', self.resolution, 32, 1024, integer=True)
        check_range('mesh_resolution', self.mesh_resolution, 16, 512, integer=True)
        check_range('points', self.points, 100, 1_000_000, integer=True)
        check_range('gallery', self.gallery, 2, 2000, integer=True)


@dataclass(frozen=True)
class Recipe:
    """A row of a benchmark."""

    overrides: tuple[str, ...]
    config: str  # of the package
    after: str
    mesh: str


@dataclass(frozen=True)
class Fit:
    """One object to make: a prompt by a row's recipe from a seed."""

    row: str
    seed: int
    prompt: str
    folder: Path
    overrides: tuple[str, ...]
    steps: int
    config: str = 'dreamfusion'
    after: str = ''  # the row whose object of the same prompt and seed it starts from
    mesh: str = ''  # 'true' or 'ball': the mesh that it starts from, at mesh_path

    @property
    def command(self) -> list[str]:
        """Return the command that makes it, or goes on with it."""
        return [sys.executable, '-m', 'nemo_dreamfusion.launch', '--config-name', self.config, *self.overrides]

    @property
    def mesh_path(self) -> Path:
        """Return where the mesh lies that it starts from."""
        return self.folder.with_name(f'{self.folder.name}-{self.mesh}.ply')


@dataclass(frozen=True)
class Plan:
    """A benchmark: the fits of all rows of its folder, and those that are to be made now."""

    out: Path
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: dict[str, list[str]]  # of the folder, those of earlier calls included
    chosen: tuple[str, ...]
    scoring: Scoring
    workers: int
    bootstrap: int
    settings: dict[str, Any]
    fits: tuple[Fit, ...]  # of all rows


def read_plan(cfg: DictConfig) -> Plan:
    """Check a configuration (``nemo_dreamfusion/conf/bench.yaml``) as a whole before any work, and plan its fits.

    Raises:
        ValueError: for a setting that cannot work, or that differs from those the folder was begun with.
    """
    activate_plugins(cfg.plugins)
    prompts = read_suite(cfg.suite)
    for prompt in prompts:
        build_scene(prompt)  # refuses what the pocket world does not know
    check_range('workers', cfg.workers, 1, 64, integer=True)
    check_range('bootstrap', cfg.bootstrap, 100, 100_000, integer=True)
    seeds = _read_seeds(cfg.seeds)
    rows, chosen = read_rows(cfg)
    scoring = Scoring(cfg.resolution, cfg.mesh_resolution, cfg.points, cfg.gallery)
    common = [str(one) for one in cfg.overrides]
    common += [] if cfg.steps is None else [f'trainer.max_steps={check_range("steps", cfg.steps, 1, integer=True)}']
    checked = {name: _check_recipe(name, common, rows) for name in chosen}
    out = Path(cfg.out).resolve()
    settings = {'prompts': prompts, 'seeds': seeds, 'overrides': common, 'scoring': asdict(scoring)}
    marks = {name: mark for name, (_, mark) in checked.items()}
    before = check_settings(out, settings, {name: rows[name] for name in chosen})
    _check_marks(out, before['marks'], marks, rows)
    check_writable(out, 'out')
    known = {**before['rows'], **{name: rows[name] for name in rows if name in chosen}}
    steps = {**before['steps'], **{name: steps for name, (steps, _) in checked.items()}}
    fits = [
        _plan_fit(out, name, seed, prompt, common, read_recipe(known[name]), steps[name])
        for name in known
        for prompt in prompts
        for seed in seeds
    ]
    return Plan(
        *(out, tuple(prompts), tuple(seeds), known, chosen, scoring, cfg.workers, cfg.bootstrap),
        settings={**settings, 'rows': known, 'steps': steps, 'marks': {**before['marks'], **marks}},
        fits=tuple(fits),
    )


def activate_plugins(modules: Sequence[str]) -> None:
    """Let configurations name classes of these modules, in this process and in those that it starts.

    They are looked for in the working folder too.

    Raises:
        ValueError: for what is no module, or cannot be imported.
    """
    if not modules:
        return
    os.environ[PLUGINS] = ','.join(dict.fromkeys([*read_plugins(), *map(str, modules)]))
    read_plugins()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            advice = f'Put it into the working folder or on PYTHONPATH ({first_line(error)}).'
            refuse('plugins', name, 'a module that can be imported', advice)


def check_settings(out: Path, settings: dict[str, Any], rows: dict[str, list[str]]) -> dict[str, Any]:
    """Compare the settings with those that the folder was begun with; return its rows, steps of their fits, and marks.

    Seeds may be added to those of then.

    Raises:
        ValueError: naming the first setting that differs.
    """
    path = out / SETTINGS
    if not path.is_file():
        return {'rows': {}, 'steps': {}, 'marks': {}}
    try:
        before = {'marks': {}, **json.loads(path.read_text(encoding='utf-8'))}
        before.update({name: dict(before[name]) for name in ('rows', 'steps', 'marks')})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is damaged: set out=<another folder>, or remove that one.') from error
    kept = {**settings, **{f'rows.{name}': value for name, value in rows.items() if name in before['rows']}}
    old = {**before, **{f'rows.{name}': value for name, value in before['rows'].items()}}
    for key, value in kept.items():
        if old.get(key) != value and not (key == 'seeds' and set(old.get(key, ())) <= set(value)):
            allowed = f'{_short(old.get(key))}, as when {out} was begun'
            refuse(key, _short(value), allowed, 'Set it back, or set out=<another folder>.')
    return before


def _check_marks(out: Path, before: dict[str, str], now: dict[str, str], rows: dict[str, list[str]]) -> None:
    """Refuse a row whose fits would have other settings than those in the folder, by other defaults than then."""
    for name, mark in now.items():
        if before.get(name, mark) != mark:
            advice = 'Its defaults have changed since. Set out=<another folder>.'
            refuse(f'rows.{name}', rows[name], f'the recipe of when {out} was begun', advice)


def save_settings(plan: Plan) -> None:
    """Write what the folder is begun with, which later calls must agree with."""
    write_atomically(plan.out / SETTINGS, json.dumps(plan.settings, indent=2) + '\n')


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 120 else text[:100] + ' ...'


def _read_seeds(seeds: Sequence[int]) -> list[int]:
    if not seeds:
        refuse('seeds', list(seeds), 'a list of one seed or more', 'Set seeds=[1,2,3].')
    return list(dict.fromkeys(check_range('seeds', seed, 0, 2**31 - 1, integer=True) for seed in seeds))


def read_rows(cfg: DictConfig) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Return the rows of the configuration, and the names of those to be made."""
    plain = OmegaConf.to_container(cfg.rows, resolve=False)
    if not isinstance(plain, dict):
        refuse('rows', plain, 'a mapping of names to lists of overrides')
    rows = {str(name): overrides for name, overrides in plain.items()}
    for name, overrides in rows.items():
        if not re.fullmatch(_ROW_NAME, name):
            refuse('rows', name, 'named by letters, digits, dots and dashes')
        if not isinstance(overrides, list) or not all(isinstance(one, str) and '=' in one for one in overrides):
            advice = f"Write '+rows.{name}=[model.guidance.mixing.guidance_scale=10]'."
            refuse(f'rows.{name}', overrides, 'a list of overrides, each key=value', advice)
    chosen = [cfg.only] if isinstance(cfg.only, str) else list(cfg.only or rows)
    check_keys('rows', chosen, rows)
    if not chosen:
        refuse('rows', rows, 'a mapping of one recipe or more')
    return {name: list(overrides) for name, overrides in rows.items()}, tuple(dict.fromkeys(chosen))


def read_recipe(row: Sequence[str]) -> Recipe:
    """Return what a row's list says: overrides, and among them ``config=``, ``after=`` and ``mesh=``."""
    said = dict(one.split('=', 1) for one in row if one.split('=', 1)[0] in OF_RECIPES)
    overrides = tuple(one for one in row if one.split('=', 1)[0] not in OF_RECIPES)
    return Recipe(overrides, said.get('config', 'dreamfusion'), said.get('after', ''), said.get('mesh', ''))


def _check_recipe(name: str, common: Sequence[str], rows: dict[str, list[str]]) -> tuple[int, str]:
    """Build the model of a row, which refuses what cannot work; return the steps of its fits and the row's mark."""
    recipe = read_recipe(rows[name])
    if recipe.after and (recipe.after == name or read_recipe(rows.get(recipe.after, ['after=?'])).after):
        refuse(f'rows.{name}', f'after={recipe.after}', 'after a row that starts from none')
    if recipe.mesh:
        check_choice(f'rows.{name}', recipe.mesh, MESHES)
    overrides = [*common, *recipe.overrides, *(['model.mesh=mesh.ply'] if recipe.mesh else [])]
    try:
        cfg = prepare_config(load_config(recipe.config, ['model.prompt=a duck', *overrides]), 'fit')
        DreamFusion(cfg.model)
    except ValueError as error:
        raise ValueError(f'rows.{name} cannot be fitted: {error}') from error
    counted = json.dumps(what_counts(to_plain(cfg)), sort_keys=True, default=str)
    return int(cfg.trainer.max_steps), hashlib.sha256(counted.encode()).hexdigest()[:16]


def _plan_fit(out: Path, row: str, seed: int, prompt: str, common: Sequence[str], recipe: Recipe, steps: int) -> Fit:
    def folder_of(row: str) -> Path:
        return out / 'fits' / row / f'seed-{seed}' / run_name(prompt, {'prompt': prompt})

    own = [
        f'model.prompt={quoted(prompt)}',
        f'model.seed={seed}',
        f'exp_manager.explicit_log_dir={quoted(str(folder_of(row)))}',
    ]
    if recipe.after:
        own.append(f'restore_from_path={quoted(str(folder_of(recipe.after) / ARCHIVE))}')
    overrides = (*QUIET, *common, *recipe.overrides, *own)
    fit = Fit(row, seed, prompt, folder_of(row), overrides, steps, recipe.config, recipe.after, recipe.mesh)
    if not recipe.mesh:
        return fit
    return replace(fit, overrides=(*overrides, f'model.mesh={quoted(str(fit.mesh_path))}', 'model.mesh_fit=false'))
