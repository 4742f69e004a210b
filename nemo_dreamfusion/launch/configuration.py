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

"""Read the configuration that is part of the package, lay overrides over it, and check it before any work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, UnsupportedInterpolationType

from nemo_dreamfusion.launch.early_checks import add_missing, check_parts, check_plain
from nemo_dreamfusion.launch.nemo2_config import is_nemo_2, translate, translate_arguments, warning
from nemo_dreamfusion.launch.override_errors import override_error
from nemo_dreamfusion.launch.overrides import prepare_overrides
from nemo_dreamfusion.launch.paths import CONF, expand_config
from nemo_dreamfusion.launch.plain import to_plain
from nemo_dreamfusion.modules.guidance.old_options import rename_old_options
from nemo_dreamfusion.parts.build import flatten
from nemo_dreamfusion.parts.ranks import is_global_rank_zero
from nemo_dreamfusion.parts.texts import keep_texts_literal

logger = logging.getLogger('nemo_dreamfusion.launch.configuration')


def load_config(name: str = 'dreamfusion', overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration of the package, as a command line does.

        load_config(overrides=['model.prompt=a duck', 'trainer.max_steps=100'])
        load_config('dreamfusion-sd', ['model.guidance.source=/models/sd'])
        load_config('evaluate', ['nemo_files=[a.nemo,b.nemo]'])

    Args:
        name: ``dreamfusion``, ``dreamfusion-sd`` or ``evaluate``: a file of ``nemo_dreamfusion/conf``.
        overrides: as on the command line: a text or a path stands as it is, the rest in Hydra's grammar; keys of NeMo's own
            DreamFusion are taken too.

    Raises:
        ValueError: for an override that cannot be read, or a key or choice that does not exist.
    """
    arguments, left_out = translate_arguments(overrides)
    if left_out:
        logger.warning(warning(left_out))
    try:
        return _compose(name, prepare_overrides(arguments))
    except HydraException as error:
        raise ValueError(override_error(error)) from error


def convert_nemo2(cfg: DictConfig) -> DictConfig:
    """Return what a configuration of NeMo's own DreamFusion means here; any other is returned as it is.

    Raises:
        ValueError: when it asks for what is not here.
    """
    if not is_nemo_2(cfg):
        return cfg
    overrides, left_out = translate(dict(flatten(to_plain(cfg))))
    try:
        ours = _compose('dreamfusion', overrides)
    except HydraException as error:
        raise ValueError(f'This configuration of NeMo 2 asks for what is not here: {override_error(error)}') from error
    if is_global_rank_zero():
        logger.warning(warning(left_out))
    return ours


def prepare_config(cfg: DictConfig, mode: str | None = None) -> DictConfig:
    """Return a copy of ``cfg`` in our keys, checked, and set the level of the log to its ``log_level``.

    Args:
        mode: takes the place of ``cfg.mode``.

    Raises:
        ValueError: one sentence on the first thing that is wrong, with the key and what to set.
    """
    from nemo_dreamfusion.launch.logging import configure_logging  # both import NeMo
    from nemo_dreamfusion.launch.validate_config import check_config

    cfg, shipped = _in_our_keys(cfg, mode)
    configure_logging(OmegaConf.select(cfg, 'log_level', default='warning'))
    check_config(cfg, shipped)
    return cfg


def refuse_early(cfg: DictConfig) -> DictConfig:
    """Refuse what can be seen to be wrong before NeMo and Lightning are imported, which takes seconds.

    Returns:
        What :func:`convert_nemo2` makes of the configuration.

    Raises:
        ValueError: as :func:`prepare_config`, which checks it all again.
    """
    _load_resolvers(cfg)
    cfg = convert_nemo2(cfg)
    check_parts(check_plain(*_in_our_keys(cfg, None)))
    return cfg


def _in_our_keys(cfg: DictConfig, mode: str | None) -> tuple[DictConfig, dict[str, Any]]:
    """Return a copy of a configuration in our keys and with all of them, and what is shipped."""
    cfg = cfg.copy()
    keep_texts(cfg)
    cfg = convert_nemo2(cfg)
    expand_config(cfg)
    if isinstance(cfg.get('model'), DictConfig):
        rename_old_options(cfg.model)
    if mode is not None:
        OmegaConf.update(cfg, 'mode', mode, force_add=True)
    shipped = yaml.safe_load((CONF / 'dreamfusion.yaml').read_text(encoding='utf-8'))
    add_missing(cfg, shipped)
    return cfg, shipped


def _load_resolvers(cfg: DictConfig) -> None:
    """Import NeMo where a configuration uses one of its resolvers, such as ``${multiply:2,3}``."""
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except UnsupportedInterpolationType:
        import_module('nemo.core.config')
    except OmegaConfBaseException:  # refused in words by the checks
        pass


def keep_texts(cfg: DictConfig) -> None:
    """Change ``cfg`` so that nothing in its prompts is interpolated."""
    if OmegaConf.is_dict(model := OmegaConf.select(cfg, 'model')):
        keep_texts_literal(model)


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose beside a Hydra application that may be running."""
    hydra, running = GlobalHydra.instance(), GlobalHydra.instance().hydra
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            cfg = compose(name, overrides=list(overrides))
    finally:
        hydra.hydra = running
    if isinstance(cfg.get('model'), DictConfig):
        rename_old_options(cfg.model)
    return cfg
