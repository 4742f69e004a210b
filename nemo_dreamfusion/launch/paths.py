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

"""Where the configuration is, and the settings that are paths, in which ``~`` is the home folder, as it is in a shell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

CONF = Path(__file__).resolve().parents[1] / 'conf'  # the configuration, which is part of the package
TROUBLESHOOTING = 'troubleshooting.md'
PATHS = frozenset(  # by their last part, wherever they stand and whichever command has them
    (
        *('restore_from_path', 'mesh_fname', 'camera_path', 'prompts_file', 'nemo_files', 'out', 'exp_dir'),
        *('explicit_log_dir', 'resume_from_checkpoint', 'files_to_copy', 'dirpath', 'filepath', 'save_dir'),
        *('default_root_dir', 'source', 'checkpoint', 'plan_dir', 'tokenizer', 'unet', 'debias', 'model_key'),
        *('target', 'out_dir', 'work_dir', 'start_from', 'job_dir', 'mesh', 'runs', 'candidates', 'python'),
    )
)
HYDRAS = ('hydra.run.dir', 'hydra.sweep.dir')


def troubleshooting_page() -> str:
    """Return where the page on what goes wrong is: in the docs of a checkout, or beside the code of an installed wheel."""
    installed = CONF.parent / TROUBLESHOOTING
    return str(installed) if installed.is_file() else f'docs/{TROUBLESHOOTING}'


def is_path(key: str) -> bool:
    """Return whether a dotted key names a file or a folder.

    >>> is_path('model.guidance.source'), is_path('model.prompt')
    (True, False)
    """
    return key in HYDRAS or key.rpartition('.')[2] in PATHS


def expand_value(value: Any) -> Any:
    """Return a path, or each of a list of them, with the home folder in place of ``~``; anything else as it is."""
    if isinstance(value, str):
        return os.path.expanduser(value) if value.startswith('~') else value
    return [expand_value(one) for one in value] if isinstance(value, list) else value


def expand_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain containers in which each path, at any depth, is written out."""
    expanded = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            expanded[key] = expand_mapping(value)
        else:
            expanded[key] = expand_value(value) if is_path(str(key)) else value
    return expanded


def expand_config(cfg: DictConfig) -> None:
    """Write out each path of a configuration, at any depth; what is missing or cannot be resolved stays as it is."""
    for key in cfg:
        if not isinstance(key, str) or OmegaConf.is_missing(cfg, key):
            continue
        if is_path(key):
            _expand_key(cfg, key)
        elif not OmegaConf.is_interpolation(cfg, key) and OmegaConf.is_dict(cfg[key]):
            expand_config(cfg[key])


def _expand_key(node: DictConfig, name: str) -> None:
    value = OmegaConf.select(node, name, throw_on_resolution_failure=False)
    plain = OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    expanded = expand_value(plain)
    if expanded != plain:
        with open_dict(node):
            node[name] = expanded


OmegaConf.register_new_resolver('expanduser', os.path.expanduser, replace=True)  # for conf/dreamfusion.yaml
