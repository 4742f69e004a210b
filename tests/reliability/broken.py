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

"""Configurations with one thing wrong, for the property tests and for run.py."""

import copy
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from hypothesis import strategies as st
from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS
from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS
from nemo.utils.exp_manager import ExpManagerConfig
from omegaconf import OmegaConf
from small_model import small_config

from nemo_dreamfusion.launch.configuration import prepare_config
from nemo_dreamfusion.models.dreamfusion import DreamFusion

FREE = ('exp_manager.wandb_logger_kwargs', 'hydra')  # other programs' settings
Path = tuple[str, ...]


def whole() -> dict[str, Any]:
    """A configuration that works, as plain containers."""
    return OmegaConf.to_container(small_config(), resolve=True)


def validate(config: Mapping[str, Any]) -> None:
    """Do what the command does with a configuration before it writes its first file (without memory for it)."""
    cfg = prepare_config(OmegaConf.create(dict(config)))
    with torch.device('meta'):
        DreamFusion(cfg.model)


def nodes(config: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every (path, value) of nested mappings, mappings included, but for those of other programs."""
    for key, value in config.items():
        here = (*path, key)
        if '.'.join(here) not in FREE:
            yield here, value
            if isinstance(value, dict):
                yield from nodes(value, here)


def changed(config: dict, path: Path, value: Any) -> dict:
    """A copy with another value at ``path``."""
    new = copy.deepcopy(config)
    node = new
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return new


GOOD = whole()
ALL = list(nodes(GOOD))
NUMBERS = [path for path, value in ALL if isinstance(value, int | float)]
FLAGS = [path for path, value in ALL if isinstance(value, bool)]
MAPPINGS = [path for path, value in ALL if isinstance(value, dict)]
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=3)), max_size=5),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
NO_NUMBER = st.sampled_from(['abc', '', {}, {'a': 1}, math.nan, math.inf, -math.inf, [[]], '1 + 1'])


@st.composite
def misspelt(draw) -> tuple[dict, str]:
    """A configuration with a key that nobody knows, and that key: one of the right ones with a letter changed."""
    path = draw(st.sampled_from([(), *MAPPINGS]))
    node = GOOD
    for key in path:
        node = node[key]
    right = draw(st.sampled_from(sorted(node)))
    place = draw(st.integers(0, len(right) - 1))
    wrong = right[:place] + draw(st.sampled_from('qxz_')) + right[place + 1 :]
    new = changed(GOOD, (*path, wrong), copy.deepcopy(node[right]))
    return (new, wrong) if wrong not in node else (changed(GOOD, (*path, 'qqq'), 1), 'qqq')


@st.composite
def no_number(draw) -> tuple[dict, str]:
    """A configuration in which something else stands for a number, and that number's key."""
    path = draw(st.sampled_from(NUMBERS))
    return changed(GOOD, path, draw(NO_NUMBER)), path[-1]


@st.composite
def anything(draw) -> tuple[dict, str]:
    """A configuration with anything at any place: it may even be right."""
    path, _ = draw(st.sampled_from(ALL))
    return changed(GOOD, path, draw(ANYTHING)), path[-1]


@st.composite
def lacking(draw) -> tuple[dict, str]:
    """A configuration from which one key was taken out: it may have a default."""
    path, _ = draw(st.sampled_from(ALL))
    new = copy.deepcopy(GOOD)
    node = new
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return new, path[-1]


# Keys of NeMo's and Lightning's that the shipped files lack
OF_EXPERIMENTS = [
    ('exp_manager', *path)
    for path, _ in nodes(OmegaConf.to_container(OmegaConf.structured(ExpManagerConfig), enum_to_str=True))
]
OF_TRAINERS = [('trainer', key) for key in inspect.signature(pl.Trainer).parameters]
OF_SCHEDULES = [
    ('model', 'optim', 'sched', key) for key in ('warmup_steps', 'warmup_ratio', 'min_lr', 'gamma', 'args')
]
OF_MODELS = [('model', 'optim_param_groups'), ('model', 'optim_param_groups', 'nerf'), ('model', 'optim', '_target_')]


@st.composite
def added(draw) -> tuple[dict, str]:
    """A configuration with keys that the shipped one has not, of NeMo and Lightning, and any value: it may be right."""
    new = copy.deepcopy(GOOD)
    new['model']['optim'] = {'name': draw(st.sampled_from(sorted(AVAILABLE_OPTIMIZERS))), 'lr': 1e-3}
    paths = draw(
        st.lists(st.sampled_from(OF_EXPERIMENTS + OF_TRAINERS + OF_SCHEDULES + OF_MODELS), min_size=1, max_size=2)
    )
    for path in paths:
        node = new
        for key in path[:-1]:
            if not isinstance(node.get(key), dict):
                node[key] = {'name': draw(st.sampled_from(sorted(AVAILABLE_SCHEDULERS)))} if key == 'sched' else {}
            node = node[key]
        node[path[-1]] = draw(st.one_of(ANYTHING, NO_NUMBER))
    return new, paths[0][-1]
