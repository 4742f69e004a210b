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


"""Options of the release before, in which ``model.guidance`` was flat, as the nested options of this one.

:func:`translate_old_guidance` and :func:`rename_old_options` serve stored configurations (``.nemo`` archives, a run's
``config.yaml``, a user's own YAML), :func:`translate_old_arguments` command lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_dreamfusion.parts.checks import check_choice

PACKAGE = 'nemo_dreamfusion.modules.guidance'
GUIDANCES = tuple(f'{PACKAGE}.{module}.' for module in ('huggingface', 'nemo', 'engine'))
MOVED = {  # old option -> its place under model.guidance
    **{name: f'mixing.{name}' for name in ('guidance_scale', 'guidance_rescale', 'perp_neg')},
    **{name: f'score.{name}' for name in ('weighting', 'grad_clip')},
    **{name: f'timesteps.{name}' for name in ('min_step_ratio', 'max_step_ratio')},
    **{name: f'latents.{name}' for name in ('latent_map', 'sample_posterior')},
    **{name: f'prompts.{name}' for name in ('view_blend_deg', 'overhead_elevation_deg', 'debias')},
    **{name: f'networks.{name}' for name in ('precision', 'attention', 'channels_last', 'vae_slicing')},
    **{name: f'networks.{name}' for name in ('checkpoint_vae', 'compile', 'cuda_graphs')},
}
OF_ONE_SCORE = {  # old option -> the score that has it, and its name there; without effect with the others
    'ism_interval': ('ism', 'interval'),
    'ism_inversion_step': ('ism', 'inversion_step'),
    'vsd_rank': ('vsd', 'rank'),
    'vsd_learning_rate': ('vsd', 'learning_rate'),
}
SCORES = {
    'sds': f'{PACKAGE}.distillation.sds.ScoreDistillationSampling',
    'csd': f'{PACKAGE}.distillation.csd.ClassifierScoreDistillation',
    'ism': f'{PACKAGE}.distillation.ism.IntervalScoreMatching',
    'vsd': f'{PACKAGE}.distillation.vsd.VariationalScoreDistillation',
}
SAMPLINGS = {
    'uniform': f'{PACKAGE}.timesteps.UniformTimesteps',
    'sqrt': f'{PACKAGE}.timesteps.SqrtTimesteps',
    'dreamtime': f'{PACKAGE}.timesteps.DreamTimeTimesteps',
}
GROUPS = {'score': 'model/guidance/score', 'time_sampling': 'model/guidance/timesteps'}  # old choice -> Hydra's group
OF_PARTS = ('lora', 'embeddings', 'tokenizer', 'unet', 'without')  # short names of model.guidance.parts.*
WITH_PARTS = tuple(f'{PACKAGE}.{module}.' for module in ('huggingface', 'nemo'))
_ARGUMENT = re.compile(r'(?P<prefix>[+~]{0,2})model\.guidance\.(?P<option>\w+)(?P<value>=.*)?', re.DOTALL)


def translate_old_guidance(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``model.guidance`` node with each old flat option in its new place, where it overrides what is there.

    Options of a score that is not chosen had no effect and are left out. A node without old options, or of another class
    than this package's guidances, is returned as it is.

    Args:
        node: plain containers; interpolations may stand in it.

    Raises:
        ValueError: for a score or a sampling that there was not.

    >>> translate_old_guidance({'_target_': f'{GUIDANCES[1]}NemoGuidance', 'checkpoint': 'a.nemo', 'perp_neg': None})
    ... # doctest: +NORMALIZE_WHITESPACE
    {'_target_': 'nemo_dreamfusion.modules.guidance.nemo.NemoGuidance', 'checkpoint': 'a.nemo', 'mixing': {'perp_neg': None}}
    """
    node = _gather_parts(node)
    old = {key: node[key] for key in node if _is_old(key, node[key])}
    if not old or not str(node.get('_target_')).startswith(GUIDANCES):
        return dict(node)
    new = {key: dict(value) if isinstance(value, Mapping) else value for key, value in node.items() if key not in old}
    for name, group, targets in (('score', 'score', SCORES), ('time_sampling', 'timesteps', SAMPLINGS)):
        if name in old:
            check_choice(f'model.guidance.{name}', old[name], tuple(targets))
            new.setdefault(group, {})['_target_'] = targets[old[name]]
    for name, place in MOVED.items():
        if name in old:
            group, option = place.split('.')
            new.setdefault(group, {})[option] = old[name]
    for name, (score, option) in OF_ONE_SCORE.items():
        if name in old and new.get('score', {}).get('_target_') == SCORES[score]:
            new['score'][option] = old[name]
    if 'networks' in new:
        new['networks'].setdefault('attention', 'sdpa')  # was no option of the engines' guidance
    for group, default in (('score', SCORES['sds']), ('timesteps', SAMPLINGS['uniform'])):
        if group in new:
            new[group].setdefault('_target_', default)
    return new


def _gather_parts(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node in which the short names of ``parts`` stand in it; those of an engine's stay where they are.

    A short name overrides what ``parts`` has, unless it is null.
    """
    short = [key for key in OF_PARTS if key in node]
    if not short or not str(node.get('_target_')).startswith(WITH_PARTS):
        return dict(node)
    parts = dict(node.get('parts') or {})
    parts |= {key: node[key] for key in short if node[key] is not None or key not in parts}
    return {key: value for key, value in node.items() if key not in short} | {'parts': parts}


def rename_old_options(model: DictConfig) -> None:
    """Translate ``model.guidance`` in place; a configuration without such a node stays as it is."""
    guidance = model.get('guidance')
    if isinstance(guidance, DictConfig):
        plain = OmegaConf.to_container(guidance, resolve=False)
        assert isinstance(plain, dict)
        with open_dict(model):
            model.guidance = translate_old_guidance({str(key): value for key, value in plain.items()})


def translate_old_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which the old options of ``model.guidance`` have their new names.

    Options of one score stay as they are for :func:`translate_old_guidance`, which knows the score that was chosen.

    >>> translate_old_arguments(['model.guidance.score=csd', 'model.guidance.weighting=residual', 'model.seed=3'])
    ['model/guidance/score=csd', 'model.guidance.score.weighting=residual', 'model.seed=3']
    """
    return [_translate_argument(argument) for argument in arguments]


def new_name(option: str) -> str | None:
    """Return what to write for an old option of ``model.guidance``; None for an option that is none.

    >>> new_name('guidance_scale'), new_name('vsd_rank'), new_name('source')
    ('model.guidance.mixing.guidance_scale', 'model.guidance.score.rank', None)
    """
    if option in OF_ONE_SCORE:
        return f'model.guidance.score.{OF_ONE_SCORE[option][1]}'
    return f'model.guidance.{MOVED[option]}' if option in MOVED else None


def _is_old(key: str, value: Any) -> bool:
    return key in MOVED or key in OF_ONE_SCORE or key == 'time_sampling' or (key == 'score' and isinstance(value, str))


def _translate_argument(argument: str) -> str:
    match = _ARGUMENT.fullmatch(argument)
    if match is None:
        return argument
    option, value = match['option'], match['value'] or ''
    if option in MOVED:
        return f'{match["prefix"]}model.guidance.{MOVED[option]}{value}'
    if option in OF_ONE_SCORE or option in OF_PARTS:
        return f'++model.guidance.{option}{value}' if value else argument
    if option in GROUPS and re.match(r'=[\w\'",]', value):  # a name; a mapping is a new node
        return f'{GROUPS[option]}{value}'
    return argument
