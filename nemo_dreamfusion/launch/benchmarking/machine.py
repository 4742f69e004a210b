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

"""What a benchmark was run on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from nemo_dreamfusion.package_info import __version__

PACKAGES = ('numpy', 'scipy', 'scikit-image', 'diffusers', 'transformers', 'nemo_toolkit')


def describe_machine() -> dict[str, str]:
    """Return processor, cores and the versions of what the numbers depend on."""
    found = {
        'processor': _processor(),
        'cores': str(os.cpu_count()),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else 'none',
    }
    return found | describe_versions(('torch', *PACKAGES))


def describe_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, of this package and of others, as far as they are installed."""
    found = {'python': platform.python_version(), 'nemo_dreamfusion': __version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Return the name of the processor: Linux tells it in a file, others through the platform module."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        lines = []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.processor() or platform.machine())
