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

"""Import optional packages where they are used, with one clear message where they are missing.

Each optional package is imported in exactly one file, inside the function or constructor that needs it::

    nerfacc = require('nerfacc', extra='nerfacc', reason='model/renderer=nerfacc renders with it',
                      instead='model/renderer=torchngp_raymarching')
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from nemo_dreamfusion.parts.checks import first_line


class MissingPackageError(ImportError, ValueError):
    """An optional package is needed and cannot be used.

    It is an ImportError for programs and a ValueError for command lines, which show a user's mistakes in one line.
    """


def available(module_name: str) -> bool:
    """Tell whether the package is installed. Nothing of it is imported, so it may still fail to load."""
    try:
        return importlib.util.find_spec(module_name.partition('.')[0]) is not None
    except ValueError:  # loaded, but by something that gave it no spec
        return True


def require(
    module_name: str, extra: str | None, reason: str, instead: str | None = None, *, install: str | None = None
) -> ModuleType:
    """Import an optional package, or say in one message what is missing, why it is needed and what to do.

    Args:
        module_name: the module to import, for example ``'trimesh'`` or ``'diffusers.loaders'``.
        extra: the extra of this package that installs it, or None when the main requirements hold it.
        reason: what needs it, as a clause: ``'model/renderer=nerfacc renders with it'``.
        instead: a setting that does without it, for example ``'model/nerf=torchngp'``.
        install: what pip is told, where it is no extra of this package and not in the main requirements.

    Raises:
        MissingPackageError: when it is not installed, or does not import.
    """
    package = module_name.partition('.')[0]
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a compiled package without its GPU, driver or matching torch raises anything at all
        if available(package):
            problem = f'The package {package!r} is installed but does not import ({_first_line(error)})'
        else:
            problem = f'The package {package!r} is not installed'
        cause = error
    raise MissingPackageError(
        f'{problem}, and {reason}. {_advice(extra, instead, install)}', name=module_name
    ) from cause


def _first_line(error: Exception) -> str:
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f'{kind}: {line}'


def _advice(extra: str | None, instead: str | None, install: str | None) -> str:
    if install is not None:
        command = f"pip install '{install}'" if '+' in install else f'pip install {install}'
    elif extra is None:
        command = 'pip install nemo_dreamfusion (from a clone: pip install -e .)'
    else:
        command = f"pip install 'nemo_dreamfusion[{extra}]' (from a clone: pip install -e '.[{extra}]')"
    return f'Install it: {command}' + (f', or choose {instead}.' if instead else '.')
