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

"""Check what the loggers of exp_manager need before the fit: a package, a name, a key."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from nemo_dreamfusion.parts.checks import refuse

PACKAGES = {  # of exp_manager.create_<name>_logger
    **{name: name for name in ('tensorboard', 'wandb', 'mlflow', 'clearml', 'neptune')},
    'dllogger': 'git+https://github.com/NVIDIA/dllogger',
}


def check_loggers(settings: Mapping[str, Any]) -> None:
    """Check each logger that the ``exp_manager`` node switches on.

    Raises:
        ValueError: naming the switch, and what to install or set.
    """
    for name, package in PACKAGES.items():
        key = f'exp_manager.create_{name}_logger'
        if not settings.get(f'create_{name}_logger', name == 'tensorboard'):
            continue
        if find_spec(name) is None:
            refuse(
                key, True, 'false here', f'The package is not installed: pip install {package}, or set {key}=false.'
            )
        options = settings.get(f'{name}_logger_kwargs') or {}
        if name in ('wandb', 'neptune') and not {'name', 'project'} & set(options):
            refuse(key, True, 'set with a name or a project', f'Set exp_manager.{name}_logger_kwargs.project=<name>.')
        advice = _missing_key(name, options)
        if advice:
            refuse(key, True, f'false without a key of {name}', f'{advice}, or set {key}=false.')


def _missing_key(name: str, options: Mapping[str, Any]) -> str | None:
    """Return what to do where a logger has no key to its server; None where it has one, or needs none."""
    if name == 'wandb' and not (_is_wandb_offline(options) or _has_wandb_key()):
        return 'Run wandb login, or set WANDB_MODE=offline'
    if name == 'neptune' and not (options.get('api_key') or os.environ.get('NEPTUNE_API_TOKEN')):
        return 'Set NEPTUNE_API_TOKEN (NeMo asks for one in the offline mode too)'
    if name == 'clearml' and not _has_clearml_key():
        return 'Run clearml-init, or set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY'
    return None


def _is_wandb_offline(options: Mapping[str, Any]) -> bool:
    modes = {options.get('mode'), os.environ.get('WANDB_MODE')}
    if options.get('offline') or modes & {'offline', 'disabled', 'dryrun'}:
        return True
    return any('offline' in text or 'disabled' in text for text in map(_read, _wandb_settings()))


def _has_wandb_key() -> bool:
    if os.environ.get('WANDB_API_KEY') or os.environ.get('WANDB_IDENTITY_TOKEN_FILE'):
        return True
    host = urlparse(os.environ.get('WANDB_BASE_URL') or 'https://api.wandb.ai').hostname or ''
    given = os.environ.get('NETRC')
    for path in [Path(given)] if given else [Path.home() / '.netrc', Path.home() / '_netrc']:
        try:
            if netrc.netrc(str(path.expanduser())).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return any('api_key' in text for text in map(_read, _wandb_settings()))


def _wandb_settings() -> list[Path]:
    """Return where ``wandb offline`` and the like leave their settings."""
    config = os.environ.get('WANDB_CONFIG_DIR') or Path.home() / '.config' / 'wandb'
    return [Path(config) / 'settings', Path('wandb') / 'settings']


def _has_clearml_key() -> bool:
    if os.environ.get('CLEARML_OFFLINE_MODE', '0').lower() not in ('0', '', 'false'):
        return True
    named = all(os.environ.get(f'CLEARML_API_{part}_KEY') for part in ('ACCESS', 'SECRET'))
    given = os.environ.get('CLEARML_CONFIG_FILE')
    return named or (Path(given).expanduser() if given else Path.home() / 'clearml.conf').is_file()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''
